"""Real spherical harmonics in plain torch: the oracle of the kernels, and what serves without a compiler."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def normalisation(order: int, m: int) -> float:
    """Factor that makes the real harmonic (order, m >= 0) orthonormal, with the Condon-Shortley sign (-1)^m."""
    k = math.sqrt((2 * order + 1) / (4 * math.pi) * math.factorial(order - m) / math.factorial(order + m))
    return k if m == 0 else (-1) ** m * math.sqrt(2) * k


def sh_encode(directions: Tensor, degree: int) -> Tensor:
    """shencoder.sh_encode for any float dtype. [N, 3] -> [N, degree^2]"""
    x, y, z = directions.unbind(-1)
    columns: list[Tensor] = [x] * degree**2
    real, imag = torch.ones_like(x), torch.zeros_like(x)  # (x + iy)^m
    legendre = torch.ones_like(x)  # d^m P_m / dz^m = (2m - 1)!!
    for m in range(degree):
        previous, current = torch.zeros_like(x), legendre
        for order in range(m, degree):
            scaled = normalisation(order, m) * current
            columns[order * (order + 1) + m] = scaled * real
            if m > 0:
                columns[order * (order + 1) - m] = scaled * imag
            raised = (2 * order + 1) * z * current - (order + m) * previous
            previous, current = current, raised / (order + 1 - m)
        real, imag = x * real - y * imag, x * imag + y * real
        legendre = (2 * m + 1) * legendre
    return torch.stack(columns, dim=-1)
