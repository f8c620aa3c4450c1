"""The grid encoding in plain torch: the oracle of the tests, and what serves where nothing can be compiled.

Differentiable any number of times by autograd. Works in the widest of float32 and the dtypes it is given, so float64
inputs and tables give float64. The layout of the table is described in csrc/grid.h.
"""

from __future__ import annotations

import torch
from torch import Tensor

PRIMES = (1, 2654435761, 805459861, 3674653429, 2097192037)  # equation 4, continued for 4 and 5 dimensions
UINT32 = 0xFFFFFFFF


def grid_rows(nodes: Tensor, resolution: int, rows: int, hashed: bool) -> Tensor:
    """Rows, within their level, of grid nodes [..., D] with coordinates 0..resolution-1. int64 [...]"""
    dimensions = nodes.shape[-1]
    if resolution**dimensions > rows and hashed:
        index = nodes[..., 0] * PRIMES[0]
        for d in range(1, dimensions):
            index = index ^ (nodes[..., d] * PRIMES[d])
    else:
        index = sum(nodes[..., d] * (resolution**d & UINT32) for d in range(dimensions))
    return (index & UINT32) % rows


def grid_encode(
    inputs: Tensor,
    embeddings: Tensor,
    offsets: list[int],
    resolutions: list[int],
    *,
    hashed: bool,
    align_corners: bool,
    smoothstep: bool,
    active: int,
) -> Tensor:
    """Interpolate the features of the corners of each point's cell, level by level. [N, L * C]

    Args as of the native operator: inputs [N, D], embeddings [P, C], the first row of each level and their end [L + 1],
    nodes along an axis [L], and how many levels are evaluated.
    """
    dtype = torch.promote_types(torch.promote_types(inputs.dtype, embeddings.dtype), torch.float32)
    x, table = inputs.to(dtype), embeddings.to(dtype)
    count, dimensions, channels = x.shape[0], x.shape[1], table.shape[1]
    inside = ((x >= 0) & (x <= 1)).all(dim=-1, keepdim=True)
    x = torch.where(inside, x, 0.5)
    # split, not slices: its backward joins the gradients of the levels once
    levels = table.split([offsets[i + 1] - offsets[i] for i in range(len(resolutions))])
    corners = torch.cartesian_prod(*[torch.arange(2, device=x.device)] * dimensions)  # [2^D, D]
    features = []
    for level, resolution in zip(levels[:active], resolutions[:active], strict=True):
        position = x * (resolution - 1) if align_corners else x * resolution - 0.5
        position = position.clamp(0, resolution - 1)
        base = position.detach().floor().clamp(max=resolution - 2)
        t = position - base
        if smoothstep:
            t = t * t * (3 - 2 * t)
        ends = torch.stack([1 - t, t])  # [2, N, D]
        nodes = base.long()[:, None] + corners  # [N, 2^D, D]
        weights = ends[corners[:, 0], :, 0]
        for d in range(1, dimensions):
            weights = weights * ends[corners[:, d], :, d]  # [2^D, N]
        rows = grid_rows(nodes, resolution, len(level), hashed)
        values = level.index_select(0, rows.flatten()).view(count, len(corners), channels)
        features.append((weights.T[..., None] * values).sum(1))
    features.append(x.new_zeros(count, (len(resolutions) - active) * channels))
    return torch.where(inside, torch.cat(features, dim=-1), 0)


def grid_total_variation(
    inputs: Tensor, embeddings: Tensor, offsets: list[int], resolutions: list[int], *, hashed: bool
) -> Tensor:
    """The energy whose gradient `grid_total_variation_` adds, for a weight of 1. Scalar.

    Sum over points (nearest node p), levels and channels of sqrt(1e-9 + sum over axes of (e[p + axis] - e[p])^2), where
    an axis has no term at its last node.
    """
    dtype = torch.promote_types(embeddings.dtype, torch.float32)
    dimensions = inputs.shape[1]
    x = inputs[((inputs >= 0) & (inputs <= 1)).all(dim=-1)]
    energy = embeddings.new_zeros((), dtype=dtype)
    steps = torch.eye(dimensions, dtype=torch.long, device=x.device)
    levels = embeddings.to(dtype).split([offsets[i + 1] - offsets[i] for i in range(len(resolutions))])
    for level, resolution in zip(levels, resolutions, strict=True):
        node = (x * resolution).long().clamp(max=resolution - 1)  # [N, D]
        here = level.index_select(0, grid_rows(node, resolution, len(level), hashed))  # [N, C]
        beyond = node == resolution - 1
        neighbours = torch.where(beyond[..., None], node[:, None], node[:, None] + steps)  # [N, D, D]
        rows = grid_rows(neighbours, resolution, len(level), hashed)
        there = level.index_select(0, rows.flatten()).view(*rows.shape, level.shape[1])  # [N, D, C]
        squares = torch.where(beyond[..., None], 0, there - here[:, None]).square().sum(1)
        energy = energy + (squares + 1e-9).sqrt().sum()
    return energy


def grid_weight_decay(embeddings: Tensor, offsets: list[int]) -> Tensor:
    """The sum over levels of the mean over their rows of the squared norm of a row. Scalar."""
    table = embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))
    levels = table.split([end - start for start, end in zip(offsets[:-1], offsets[1:], strict=True)])
    return sum(level.square().sum() / len(level) for level in levels)
