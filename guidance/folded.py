"""Two convolutions with nothing between them as one: with larger windows, of fewer channels, and less to compute."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

UPSAMPLED = torch.tensor(  # [2, 3, 5]: through which of 3 pixels the halves of the middle one see their 5 neighbours
    [[[1, 1, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 1]], [[1, 0, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 1, 1]]],
    dtype=torch.float64,
)


class Folded(nn.Module):
    """second(first(x)), or that of x upsampled by 2, as one convolution: the same but for rounding.

    Windows of 3 x 3, one behind the other, are one of 5 x 5; on an upsampled picture, one of 3 x 3 for each of the 4
    pixels that a pixel becomes. The outermost pixels of the result are computed as before, from strips of x: there
    `second` sees a border of zeros, not what `first` would make of its own border.

    Args:
        upsample: nn.Upsample by 2 to the nearest, or nothing.
        first, second: frozen convolutions (see `fold`); `second` may have strides of 2 where nothing is upsampled.
    """

    def __init__(self, upsample: nn.Upsample | None, first: nn.Conv2d, second: nn.Conv2d):
        super().__init__()
        self.plain = nn.Sequential(*([] if upsample is None else [upsample]), first, second)
        self.shuffle = nn.Identity() if upsample is None else nn.PixelShuffle(2)
        self.stride, self.reach = second.stride[0], 4 if upsample is None else 2  # rows that decide an outermost one
        inner, outer = first.weight.double(), second.weight.double()
        weight = F.conv2d(inner.transpose(0, 1), outer.flip(2, 3), padding=2).transpose(0, 1)
        bias = _bias(second) + outer.sum((2, 3)) @ _bias(first)
        if upsample is not None:
            weight = torch.einsum("apu,ocuv,bqv->oabcpq", UPSAMPLED, weight, UPSAMPLED).flatten(0, 2)
            bias = bias.repeat_interleave(4)
        outputs, inputs, side, _ = weight.shape
        self.conv = nn.Conv2d(inputs, outputs, side, self.stride, side // 2, dtype=second.weight.dtype)
        self.conv.requires_grad_(False).weight.copy_(weight)
        self.conv.bias.copy_(bias)
        self.conv.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        y = self.shuffle(self.conv(x))
        for dim in (2, 3):
            size = x.shape[dim]
            y.select(dim, 0).copy_(self.plain(x.narrow(dim, 0, min(self.reach, size))).select(dim, 0))
            if (size - 1) % self.stride == 0:  # else the last window ends where the picture does
                start = max(0, size - self.reach) // self.stride * self.stride
                y.select(dim, -1).copy_(self.plain(x.narrow(dim, start, size - start)).select(dim, -1))
        return y


def fold(layers: nn.Sequential) -> nn.Sequential:
    """The layers with Folded in place of frozen convolutions that follow one another, where that is less to compute."""
    folded: list[nn.Module] = []
    for layer in layers:
        if len(folded) and _foldable(folded[-1], layer):
            first, upsample = folded.pop(), None
            if len(folded) and _doubles(folded[-1]) and layer.stride[0] == 1:
                upsample = folded.pop()
            layer = Folded(upsample, first, layer)
        folded.append(layer)
    return nn.Sequential(*folded).train(layers.training)


def _foldable(first: nn.Module, second: nn.Module) -> bool:
    if not all(type(layer) is nn.Conv2d and _is_plain(layer) for layer in (first, second)):
        return False
    shrinks = second.stride[0] ** 2
    apart = 9 * first.out_channels * (first.in_channels + second.out_channels / shrinks)  # products for a pixel
    return first.stride == (1, 1) and 25 * first.in_channels * second.out_channels / shrinks < apart


def _is_plain(conv: nn.Conv2d) -> bool:
    asked = ((3, 3), (1, 1), (1, 1), 1, "zeros", False)
    given = conv.kernel_size, conv.padding, conv.dilation, conv.groups, conv.padding_mode, conv.weight.requires_grad
    return given == asked and conv.stride in ((1, 1), (2, 2))


def _doubles(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Upsample) and layer.mode == "nearest" and layer.scale_factor == 2


def _bias(conv: nn.Conv2d) -> Tensor:
    return torch.zeros(conv.out_channels, dtype=torch.float64) if conv.bias is None else conv.bias.double()
