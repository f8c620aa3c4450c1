"""Encodes directions with the real spherical harmonics."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import extension

from . import reference

MAX_DEGREE = 8


def sh_encode(directions: Tensor, degree: int = 4) -> Tensor:
    """Evaluate the real spherical harmonics of order below `degree` (Sloan, Stupid Spherical Harmonics Tricks, 2008).

    Orthonormal on the unit sphere, with the Condon-Shortley sign, harmonic (order, m) in column order * (order + 1) + m
    as in Instant-NGP: degree 2 gives 0.2820948, -0.4886025 y, 0.4886025 z, -0.4886025 x. For a vector that is not of
    unit length the same polynomials in x, y and z are evaluated. Differentiable once in `directions`; float64 and
    devices without kernels take the reference.

    Args:
        directions: Unit vectors, any float dtype. [N, 3]
        degree: Number of orders, 1..8.

    Returns:
        The harmonics in the dtype of `directions`. [N, degree^2]

    Raises:
        ValueError: the shape is not [N, 3], the dtype is not a float one, or `degree` is out of range.
    """
    if directions.ndim != 2 or directions.shape[1] != 3 or not directions.is_floating_point():
        raise ValueError(f"sh_encode needs float directions [N, 3], got {directions.dtype} {list(directions.shape)}")
    if not 1 <= degree <= MAX_DEGREE:
        raise ValueError(f"sh_encode needs a degree in 1..{MAX_DEGREE}, got {degree}")
    if not extension.serves("shencoder", directions):
        return reference.sh_encode(directions, degree)
    return torch.ops.shencoder.sh_encode(directions.float(), degree).to(directions.dtype)


class SHEncoder(nn.Module):
    """`sh_encode` as a module: [..., 3] -> [..., degree^2], no parameters."""

    def __init__(self, input_dim: int = 3, degree: int = 4) -> None:
        super().__init__()
        if input_dim != 3:
            raise ValueError(f"SHEncoder encodes directions of 3 coordinates, got input_dim={input_dim}")
        if not 1 <= degree <= MAX_DEGREE:
            raise ValueError(f"SHEncoder needs a degree in 1..{MAX_DEGREE}, got {degree}")
        self.input_dim, self.degree, self.output_dim = input_dim, degree, degree**2

    def forward(self, directions: Tensor) -> Tensor:
        encoded = sh_encode(directions.reshape(-1, self.input_dim), self.degree)
        return encoded.reshape(*directions.shape[:-1], self.output_dim)

    def extra_repr(self) -> str:
        return f"degree={self.degree}"


def _register() -> None:
    @torch.library.register_fake("shencoder::sh_encode")
    def _(directions, degree):
        return directions.new_empty(directions.shape[0], degree**2)

    @torch.library.register_fake("shencoder::sh_encode_backward")
    def _(grad, directions, degree):
        return torch.empty_like(directions, memory_format=torch.contiguous_format)

    def setup_context(ctx, inputs, output):
        directions, ctx.degree = inputs
        ctx.save_for_backward(directions)

    def backward(ctx, grad):
        (directions,) = ctx.saved_tensors
        return torch.ops.shencoder.sh_encode_backward(grad, directions, ctx.degree), None

    torch.library.register_autograd("shencoder::sh_encode", backward, setup_context=setup_context)
    extension.differentiable_once("shencoder::sh_encode_backward")


extension.when_loaded("shencoder", _register)
