"""Inputs shared by the tests and scripts/bench.py: random, never zeros, the same for a seed on every device."""

from __future__ import annotations

import math

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


def rays(n: int, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """A square picture from z = 3 of the origin, n a square number, row by row: origins, unit directions. [n, 3]"""
    side = math.isqrt(n)
    assert side * side == n, "n must be a square number"
    steps = (torch.arange(side, dtype=torch.float64) + 0.5) / side * 2 - 1
    y, x = torch.meshgrid(-0.2 * steps, 0.2 * steps, indexing="ij")  # 1.2 units across at the origin
    aim = torch.stack([x, y, torch.full_like(x, -1.0)], -1).reshape(-1, 3)
    origin = torch.tensor([0.0, 0.0, 3.0], dtype=torch.float64).expand_as(aim)
    return origin.to(device, dtype, copy=True), torch.nn.functional.normalize(aim, dim=-1).to(device, dtype)


def points_on_rays(n: int, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Tensor:
    """Points of the unit cube as a renderer asks for them: 64 along each of n / 64 neighbouring rays. [n, 3]"""
    origins, directions_ = rays(math.ceil(math.sqrt(n / 64)) ** 2, dtype=torch.float64)
    distances = torch.linspace(2.2, 3.8, 64, dtype=torch.float64)
    positions = origins[:, None] + distances[:, None] * directions_[:, None]
    return ((positions.reshape(-1, 3)[:n] + 1) / 2).to(device, dtype)


def intervals_on_rays(
    n: int, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Lengths [n] of the samples of `points_on_rays` in a box of edge 2, and their rays: packed_info [n / 64, 2]"""
    first = torch.arange(0, n, 64)
    packed_info = torch.stack([first, (n - first).clamp(max=64)], 1).int().to(device)
    return torch.full((n,), 1.6 / 63, dtype=dtype, device=device), packed_info


def ball_density(resolution: int, radius: float = 0.4, *, device: torch.device | str = "cpu") -> Tensor:
    """Density 20 inside a ball, 0 outside, of one cascade over [-1, 1]^3, cells in Morton order. [1, resolution^3]"""
    bits = torch.arange(resolution.bit_length() - 1)
    index = torch.arange(resolution**3)
    cell = [((index[:, None] >> (3 * bits + axis) & 1) << bits).sum(-1) for axis in range(3)]
    centre = (torch.stack(cell, -1) + 0.5) / resolution * 2 - 1
    return (20.0 * (centre.norm(dim=-1) < radius)).float()[None].to(device)


def sphere_bitfield(
    H: int,
    *,
    C: int = 1,
    bound: float = 1.0,
    radius: float = 0.5,
    thickness: float = 0.1,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Occupancy bits of a hollow sphere, off centre, in every cascade, in Morton order. uint8 [C * H^3 / 8]"""
    middle = bound * torch.tensor([0.1, -0.05, 0.15])  # a symmetric scene would hide swapped axes
    x, y, z = torch.meshgrid(*[torch.arange(H)] * 3, indexing="ij")
    place = sum(((axis >> bit) & 1) << (3 * bit + i) for i, axis in enumerate((x, y, z)) for bit in range(10))
    cells = torch.zeros(C, H**3, dtype=torch.int64)
    for level in range(C):
        width = 2 * bound * 2.0 ** (level - (C - 1)) / H
        centres = (torch.stack([x, y, z], -1) + 0.5 - H / 2) * width
        cells[level, place] = (((centres - middle).norm(dim=-1) - radius).abs() < thickness / 2 + width).long()
    return (cells.reshape(-1, 8) << torch.arange(8)).sum(1).to(device, torch.uint8)


def rays_towards_origin(
    n: int, *, distance: float = 3.0, spread: float = 0.8, device: torch.device | str = "cpu", seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Rays from points around the scene to points near its centre. origins [n, 3], unit directions [n, 3]"""
    origins = distance * directions(n, seed=seed)
    targets = spread * (2 * points(n, seed=seed + 1) - 1)
    return origins.to(device), torch.nn.functional.normalize(targets - origins, dim=-1).to(device)


def packed_samples(
    rays: int,
    *,
    longest: int = 40,
    channels: int = 3,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rays of 0 to `longest` samples, thin to dense: sigmas [M], rgbs [M, channels], ts [M, 2], packed_info [N, 2]"""
    generator = torch.Generator().manual_seed(seed)
    count = torch.randint(0, longest + 1, (rays,), generator=generator)
    first = count.cumsum(0) - count
    M = int(count.sum())
    step = torch.arange(M) - torch.repeat_interleave(first, count)
    dt = 0.02 + 0.06 * torch.rand(M, generator=generator, dtype=torch.float64)
    ts = torch.stack([1 + 0.05 * step, dt], 1)
    sigmas = 20 * torch.rand(M, generator=generator, dtype=torch.float64) ** 3
    rgbs = torch.rand(M, channels, generator=generator, dtype=torch.float64)
    packed_info = torch.stack([first, count], 1).int().to(device)
    return sigmas.to(device, dtype), rgbs.to(device, dtype), ts.to(device, dtype), packed_info


def linear_layers(*widths: int, device: torch.device | str = "cpu", seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Weight [outputs, inputs] and bias [outputs] of layers that keep the size of what passes them."""
    generator = torch.Generator().manual_seed(seed)
    layers = []
    for inputs, outputs in zip(widths[:-1], widths[1:], strict=True):
        weight = torch.randn(outputs, inputs, generator=generator) * math.sqrt(2 / inputs)
        layers.append((weight.to(device), (0.2 * torch.randn(outputs, generator=generator)).to(device)))
    return layers
