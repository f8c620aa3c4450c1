"""Inputs shared by the tests and scripts/bench.py: random, never zeros, the same for a seed on every device."""

from __future__ import annotations

import torch
from torch import Tensor


def points(
    n: int,
    dim: int = 3,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Tensor:
    """Uniform in the unit cube. [n, dim]"""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, dim, generator=generator, dtype=torch.float64).to(device, dtype)


def directions(
    n: int, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32, seed: int = 0
) -> Tensor:
    """Uniform on the unit sphere. [n, 3]"""
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    return torch.nn.functional.normalize(vectors, dim=-1).to(device, dtype)


def cotangent(like: Tensor, *, seed: int = 1) -> Tensor:
    """A random gradient for an output: a sum() would hide sign errors."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like.device, like.dtype)
