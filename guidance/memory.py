"""How much memory a Stable Diffusion guidance takes, and what it can do without when that is too much.

Plans, the largest first; each keeps what the ones before it gave up. The encoder is always lean (guidance/lean.py) and
the text encoder always freed. Attention is not sliced: torch's own keeps no matrix of it. Figures are counted on fake
tensors of the true size, for pictures in half precision that are led through their latents. Led to their targets'
pixels they take no more: nothing is kept for a gradient, and the decoder takes 0.10 GB and makes 0.40 of one picture
(0.57 with the encoder, instead of 0.68).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


@dataclass(frozen=True)
class Load:
    """What a step asks of a guidance."""

    parameters: int  # of the UNet
    pixels: int = 0  # of a picture as the autoencoder reads it, 0 without one
    pictures: int = 1
    prompts: int = 2  # that the UNet reads for each


@dataclass(frozen=True)
class MemoryPlan:
    """What is given up."""

    name: str
    in_turn: bool = False  # one picture after the other, encoded again for its gradient
    int8: bool = False  # weights of the UNet in 8 bits, dequantised where they are used
    scale: float = 1.0  # of the side of the pictures that the model sees

    def gigabytes(self, load: Load) -> float:
        """Of the guidance during a step."""
        weights = load.parameters * (1 if self.int8 else 2) + AUTOENCODER_BYTES * (load.pixels > 0)
        if self.in_turn:
            at_pixel = ENCODED + PROMPTED * AT_ONCE + HELD * load.pictures
        else:
            at_pixel = (ENCODED + PROMPTED * load.prompts) * load.pictures
        return (weights + load.pixels * self.scale**2 * at_pixel + OVERHEAD) / 1e9


AUTOENCODER_BYTES = 34_163_592 * 2  # of AutoencoderKL's encoder
# Bytes for each pixel, at most: 0.65 GB of 512 x 512 and two prompts.
ENCODED = 1980  # kept of the encoder for the gradient
PROMPTED = 260  # made meanwhile by the UNet for a prompt; more than the gradient makes when it comes to that
HELD = 55  # of every picture, whether it has its turn or not: itself and its gradient
AT_ONCE = 2  # prompts that the UNet reads where pictures take turns: those of one
OVERHEAD = 0.2e9  # of weights as they leave their 8 bits, and what lies around; without pixels, of the UNet's own pass
IN_TURN = MemoryPlan("one picture at a time", in_turn=True)
PLANS = (
    MemoryPlan("whole"),
    IN_TURN,
    MemoryPlan("8-bit UNet", in_turn=True, int8=True),
    MemoryPlan("8-bit UNet, pictures of 3/4 the side", in_turn=True, int8=True, scale=0.75),
    MemoryPlan("8-bit UNet, pictures of half the side", in_turn=True, int8=True, scale=0.5),
)


def plans(load: Load) -> list[MemoryPlan]:
    """Those of PLANS that differ: one picture has no turns to take."""
    return [plan for plan in PLANS if plan is not IN_TURN or load.pictures > 1]


def choose(free: float, load: Load) -> MemoryPlan:
    """The first plan that takes no more than `free` GB, else the last. No plan gives up more than it has to."""
    return next((plan for plan in plans(load) if plan.gigabytes(load) <= free), PLANS[-1])


def next_smaller(plan: MemoryPlan, load: Load) -> MemoryPlan | None:
    """The plan after this one; None: there is none."""
    return next((other for other in plans(load) if PLANS.index(other) > PLANS.index(plan)), None)


def in_turn(function: Callable[..., Tensor], *tensors: Tensor, at_once: int = 1) -> Tensor:
    """function(*tensors), each [B, ...], of `at_once` elements of the batch after the other: the same but for rounding.

    Nothing is kept for a gradient but the tensors: the function computes once more for it, again in turn.
    """
    if len(tensors[0]) <= at_once:
        return function(*tensors)
    turns = zip(*(tensor.split(at_once) for tensor in tensors), strict=True)
    # Nothing is drawn while a frozen model computes, so that no state of a generator has to be restored.
    return torch.cat([checkpoint(function, *turn, use_reentrant=False, preserve_rng_state=False) for turn in turns])


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
