"""Encodes coordinates by the sines and cosines of their octaves."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import extension

from . import reference

MAX_DEGREE = 32


def freq_encode(x: Tensor, degree: int = 4) -> Tensor:
    """Append the sines and cosines of 2^0 x .. 2^(degree-1) x to x (NeRF, arXiv:2003.08934, eq. 4, without its pi).

    Columns: x, sin(x), cos(x), sin(2x), cos(2x), sin(4x), ..., each of D columns. Accurate to float32 rounding for any
    argument, however large. Differentiable once in `x`; float64 and devices without kernels take the reference.

    Args:
        x: Coordinates, any float dtype. [N, D]
        degree: Number of octaves, 0..32.

    Returns:
        The encoding in the dtype of `x`. [N, D + 2 D degree]

    Raises:
        ValueError: the shape is not [N, D], the dtype is not a float one, or `degree` is out of range.
    """
    if x.ndim != 2 or not x.is_floating_point():
        raise ValueError(f"freq_encode needs float coordinates [N, D], got {x.dtype} {list(x.shape)}")
    if not 0 <= degree <= MAX_DEGREE:
        raise ValueError(f"freq_encode needs a degree in 0..{MAX_DEGREE}, got {degree}")
    if not extension.serves("freqencoder", x):
        return reference.freq_encode(x, degree)
    return torch.ops.freqencoder.freq_encode(x.float(), degree).to(x.dtype)


class FreqEncoder(nn.Module):
    """`freq_encode` as a module: [..., D] -> [..., D + 2 D degree], no parameters."""

    def __init__(self, input_dim: int = 3, degree: int = 4) -> None:
        super().__init__()
        if input_dim < 1:
            raise ValueError(f"FreqEncoder needs at least one coordinate, got input_dim={input_dim}")
        if not 0 <= degree <= MAX_DEGREE:
            raise ValueError(f"FreqEncoder needs a degree in 0..{MAX_DEGREE}, got {degree}")
        self.input_dim, self.degree = input_dim, degree
        self.output_dim = input_dim * (1 + 2 * degree)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] != self.input_dim:
            raise ValueError(f"FreqEncoder was made for {self.input_dim} coordinates, got {x.shape[-1]}")
        encoded = freq_encode(x.reshape(-1, self.input_dim), self.degree)
        return encoded.reshape(*x.shape[:-1], self.output_dim)

    def extra_repr(self) -> str:
        return f"input_dim={self.input_dim}, degree={self.degree}"


def _register() -> None:
    @torch.library.register_fake("freqencoder::freq_encode")
    def _(x, degree):
        return x.new_empty(x.shape[0], x.shape[1] * (1 + 2 * degree))

    @torch.library.register_fake("freqencoder::freq_encode_backward")
    def _(grad, encoded, degree):
        return encoded.new_empty(encoded.shape[0], encoded.shape[1] // (1 + 2 * degree))

    def setup_context(ctx, inputs, output):
        ctx.degree = inputs[1]
        ctx.save_for_backward(output)  # the sine of a wave is the slope of its cosine: nothing is evaluated twice

    def backward(ctx, grad):
        (encoded,) = ctx.saved_tensors
        return torch.ops.freqencoder.freq_encode_backward(grad, encoded, ctx.degree), None

    torch.library.register_autograd("freqencoder::freq_encode", backward, setup_context=setup_context)
    extension.differentiable_once("freqencoder::freq_encode_backward")


extension.when_loaded("freqencoder", _register)
