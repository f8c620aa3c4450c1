"""The gradient through a frozen autoencoder, for a fifth of the memory and exactly the same.

PyTorch keeps three tensors of every GroupNorm, SiLU and convolution: the input of each. Two of them are of no use
here: the weights are frozen, so a convolution does not need its input, and SiLU's follows from GroupNorm's. What is
left is one tensor, which the residual connection holds anyway.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

aten = torch.ops.aten


class FrozenConv(torch.autograd.Function):
    """Convolution whose gradient reaches its input alone; keeps nothing of it but its shape."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride, padding, dilation, groups) -> Tensor:
        ctx.weight, ctx.shape = weight, x.shape
        ctx.how = stride, padding, dilation, False, [0] * len(stride), groups
        return aten.convolution(x, weight, bias, *ctx.how)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        stride, padding, dilation, *_, groups = ctx.how
        windows = zip(ctx.shape[2:], grad.shape[2:], ctx.weight.shape[2:], stride, padding, dilation, strict=True)
        # Rows at the end that no window has come to, for its stride is longer than they are.
        left = [size + 2 * p - (count - 1) * s - d * (k - 1) - 1 for size, count, k, s, p, d in windows]
        # The gradient of a convolution is the transposed one, which asks for nothing of the input.
        inputs = aten.convolution(grad, ctx.weight, None, stride, padding, dilation, True, left, groups)
        return inputs, None, None, None, None, None, None


class NormSilu(torch.autograd.Function):
    """silu(group_norm(x)) with frozen weights; keeps x and the statistics of its groups."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        y, mean, rstd = _group_norm(_taken(x), weight, bias, groups, eps)
        ctx.save_for_backward(x, mean, rstd)
        ctx.weight, ctx.bias, ctx.groups, ctx.eps = weight, bias, groups, eps
        return _dense(nn.functional.silu(y, inplace=True), _layout(x))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        given, mean, rstd = ctx.saved_tensors
        x = _taken(given)
        normed = _group_norm(x, ctx.weight, ctx.bias, ctx.groups, ctx.eps)[0]
        # Into the layout of x, whichever its own is: another one is misread without an error.
        grad = aten.silu_backward.grad_input(grad, normed, grad_input=normed)
        sizes = x.shape[0], x.shape[1], x[0, 0].numel()
        inputs = aten.native_group_norm_backward(
            grad, x, mean, rstd, ctx.weight, *sizes, ctx.groups, [True, False, False]
        )[0]
        del x, normed, grad  # before there is one more of their size
        return _dense(inputs, _layout(given)), None, None, None, None


def _taken(x: Tensor) -> Tensor:
    """In a layout that torch's normalisation takes: on a GPU, channels behind the pixels are an error (torch 2.13)."""
    return _dense(x, _layout(x) if _takes_channels_last(x) else torch.contiguous_format)


def _takes_channels_last(x: Tensor) -> bool:
    return x.device.type == "cpu"


def _layout(x: Tensor) -> torch.memory_format:
    last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def _dense(x: Tensor, layout: torch.memory_format) -> Tensor:
    odd = len(x) == 1 and x.stride(0) < x[0].numel()  # a transposed view: contiguous by name, and refused
    return x.clone(memory_format=layout) if odd else x.contiguous(memory_format=layout)


def _group_norm(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    return aten.native_group_norm(x, weight, bias, x.shape[0], x.shape[1], x[0, 0].numel(), groups, eps)


class _Conv(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return FrozenConv.apply(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class _NormSilu(nn.GroupNorm):
    def forward(self, x: Tensor) -> Tensor:
        return NormSilu.apply(x, self.weight, self.bias, self.num_groups, self.eps)


def _residual(block: nn.Module, x: Tensor, temb: None = None) -> Tensor:
    """What is left of a block of an encoder: no time, no scale of 1 to divide by, and no third tensor for the sum."""
    y = block.conv2(block.norm2(block.conv1(block.norm1(x))))
    return y.add_(x if block.conv_shortcut is None else block.conv_shortcut(x))


def make_lean(encoder: nn.Module) -> nn.Module:
    """Let the frozen encoder of diffusers' AutoencoderKL keep little for its gradient. In place; weights stay.

    Raises:
        ValueError: it is not frozen, or its activation is not SiLU.
    """
    from diffusers.models.resnet import ResnetBlock2D

    if any(p.requires_grad for p in encoder.parameters()):
        raise ValueError("only a frozen encoder can do without its inputs: requires_grad_(False) first")
    blocks = [module for module in encoder.modules() if isinstance(module, ResnetBlock2D)]
    if not all(isinstance(block.nonlinearity, nn.SiLU) for block in blocks):
        raise ValueError("the encoder has another activation than SiLU")
    for block in blocks:
        block.norm1.__class__ = block.norm2.__class__ = _NormSilu
        block.nonlinearity = nn.Identity().train(encoder.training)
        if block.output_scale_factor == 1:
            block.forward = MethodType(_residual, block)
    encoder.conv_norm_out.__class__, encoder.conv_act = _NormSilu, nn.Identity().train(encoder.training)
    for module in encoder.modules():
        if type(module) is nn.Conv2d and module.padding_mode == "zeros" and not isinstance(module.padding, str):
            module.__class__ = _Conv
    return encoder
