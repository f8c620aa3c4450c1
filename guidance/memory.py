"""How much memory a Stable Diffusion guidance takes, and what it can do without when that is too much.

Plans, the largest first; each keeps what the ones before it gave up. The encoder is always lean (guidance/lean.py) and
the text encoder always freed. Figures are counted on fake tensors of the true size, for pictures in half precision that
are led through their latents. Led to their targets' pixels they take no more: nothing is kept for a gradient, and the
decoder takes 0.10 GB and makes 0.40 of one picture (0.57 with the encoder, instead of 0.61).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class MemoryPlan:
    """What is given up."""

    name: str
    int8: bool = False  # weights of the UNet in 8 bits, dequantised where they are used
    scale: float = 1.0  # of the side of the pictures that the model sees

    def gigabytes(self, parameters: int, pixels: int) -> float:
        """Of the guidance during a step.

        parameters: of the UNet; pixels: of all pictures of a step as they are encoded, 0 without autoencoder.
        """
        weights = parameters * (1 if self.int8 else 2) + AUTOENCODER_BYTES * (pixels > 0)
        return (weights + pixels * self.scale**2 * BYTES_PER_PIXEL + OVERHEAD) / 1e9


AUTOENCODER_BYTES = 34_163_592 * 2  # of AutoencoderKL's encoder
BYTES_PER_PIXEL = 2.5e3  # kept and made by the encoder, the UNet and the gradient at most: 0.65 GB of 512 x 512
OVERHEAD = 0.2e9  # of weights as they leave their 8 bits, and what lies around; without pixels, of the UNet's own pass
PLANS = (
    MemoryPlan("whole"),
    MemoryPlan("8-bit UNet", int8=True),
    MemoryPlan("8-bit UNet, pictures of 3/4 the side", int8=True, scale=0.75),
    MemoryPlan("8-bit UNet, pictures of half the side", int8=True, scale=0.5),
)


def choose(free: float, parameters: int, pixels: int) -> MemoryPlan:
    """The first plan that takes no more than `free` GB, else the last. No plan gives up more than it has to."""
    return next((plan for plan in PLANS if plan.gigabytes(parameters, pixels) <= free), PLANS[-1])


def next_smaller(plan: MemoryPlan) -> MemoryPlan | None:
    """The plan after this one; None: there is none."""
    after = PLANS.index(plan) + 1
    return PLANS[after] if after < len(PLANS) else None


def quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Symmetric 8-bit integers with one scale for each output. [O, ...] -> int8 [O, ...], scale [O, 1, ...]"""
    scale = weight.detach().flatten(1).abs().amax(1).float().clamp(min=1e-12) / 127
    scale = scale.view(-1, *[1] * (weight.dim() - 1))
    return (weight.detach().float() / scale).round().to(torch.int8), scale.to(weight.dtype)


class _Int8:
    """A layer whose weight is an integer until it is used: half the memory of fp16."""

    def dequantised(self) -> Tensor:
        return self.weight.to(self.scale.dtype) * self.scale


class _Int8Linear(_Int8, nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.dequantised(), self.bias)


class _Int8Conv(_Int8, nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.dequantised(), self.bias)


def to_int8(model: nn.Module) -> nn.Module:
    """Quantise the weights of every linear and convolutional layer, one after the other, in place.

    Only for a frozen model: no gradient reaches the weights.
    """
    kinds = {nn.Linear: _Int8Linear, nn.Conv2d: _Int8Conv}
    for layer in [module for module in model.modules() if type(module) in kinds]:
        weight, scale = quantise(layer.weight)
        layer.register_buffer("scale", scale)
        layer.weight = nn.Parameter(weight, requires_grad=False)
        layer.__class__ = kinds[type(layer)]
    return model
