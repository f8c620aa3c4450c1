"""Cells of the occupancy grid: Morton order, bits, cascades, and which ray a sample belongs to."""

from __future__ import annotations

import torch
from torch import Tensor

from raymarching import reference
from raymarching.dispatch import check_integers, check_shape, native


def cascade_half_width(level: int, bound: float, cascades: int) -> float:
    """Half the edge of cube `level` of `cascades` nested ones, scene units.

    The outermost cube, level cascades - 1, is [-bound, bound]^3; each smaller one has half its edge, so that cells of
    one level are never cut by the border of another.
    """
    return bound * 2.0 ** (level - (cascades - 1))


def morton3D(coords: Tensor) -> Tensor:
    """Place of cells along the Morton curve (bit i of x, y, z becomes bit 3i, 3i + 1, 3i + 2).

    Args:
        coords: Cell coordinates in [0, 1024), int32. [N, 3]

    Returns:
        indices in [0, 2^30), int32. [N]

    Raises:
        ValueError: wrong shape, or floating point.
    """
    check_shape("coords", coords, -1, 3)
    check_integers("coords", coords)
    if native(coords):
        return torch.ops.raymarching.morton3D(coords.int())
    return reference.morton3D(coords)


def morton3D_invert(indices: Tensor) -> Tensor:
    """Cells at places of the Morton curve: the inverse of `morton3D`.

    Args:
        indices: In [0, 2^30), int32. [N]

    Returns:
        coords in [0, 1024), int32. [N, 3]

    Raises:
        ValueError: wrong shape, or floating point.
    """
    check_shape("indices", indices, -1)
    check_integers("indices", indices)
    if native(indices):
        return torch.ops.raymarching.morton3D_invert(indices.int())
    return reference.morton3D_invert(indices)


def packbits(grid: Tensor, thresh: float | Tensor) -> Tensor:
    """One bit per cell: whether its density is above the threshold. Cell n is bit n % 8 of byte n // 8.

    Args:
        grid: Density of each cell in Morton order, one row per cascade. [C, H^3]
        thresh: In the unit of `grid`: a number, or one on the grid's device, for which nobody has to wait. []

    Returns:
        bitfield, uint8. [C * H^3 / 8]

    Raises:
        ValueError: not two dimensions, or a number of cells that is no multiple of 8.
    """
    check_shape("grid", grid, -1, -1)
    if grid.numel() % 8:
        raise ValueError(f"grid must have a multiple of 8 cells, got {grid.numel()}")
    grid = grid.detach()
    if not isinstance(thresh, Tensor):
        thresh = torch.full((), thresh, device=grid.device)
    if native(grid):
        return torch.ops.raymarching.packbits(grid, thresh.to(grid.device, torch.float32))
    return reference.packbits(grid, thresh)


def flatten_rays(packed_info: Tensor, M: int) -> Tensor:
    """The ray each sample belongs to, -1 where no ray owns it.

    Args:
        packed_info: First sample and sample count of each ray, int32. [N, 2]
        M: Number of samples.

    Returns:
        ray indices, int32. [M]

    Raises:
        ValueError: wrong shape or dtype.
    """
    check_shape("packed_info", packed_info, -1, 2)
    check_integers("packed_info", packed_info)
    if native(packed_info):
        return torch.ops.raymarching.flatten_rays(packed_info.int(), M)
    return reference.flatten_rays(packed_info, M)
