"""Pictures and distances of a solid: the compiled tracer, or the torch reference where there is no compiler."""

from __future__ import annotations

import torch
from torch import Tensor

import extension
from toybox import reference


def cameras(azimuth: Tensor, elevation: Tensor, radius: Tensor, fovy: Tensor) -> Tensor:
    """Cameras that look at the origin, y up, azimuth 0 in front (+z).

    Args: azimuth, elevation, fovy in degrees, radius in scene units. [B] each

    Returns:
        origin, right, up, forward / tan(fovy / 2). [B, 12] float32
    """
    azimuth, elevation, radius, fovy = (
        torch.as_tensor(v, dtype=torch.float64) for v in (azimuth, elevation, radius, fovy)
    )
    azimuth, elevation = torch.deg2rad(azimuth), torch.deg2rad(elevation.clamp(-89.9, 89.9))
    flat = elevation.cos()
    back = torch.stack([flat * azimuth.sin(), elevation.sin(), flat * azimuth.cos()], -1)
    right = torch.stack([azimuth.cos(), torch.zeros_like(azimuth), -azimuth.sin()], -1)
    up = torch.linalg.cross(back, right)
    forward = -back / torch.tan(torch.deg2rad(fovy) / 2)[:, None]
    return torch.cat([back * radius[:, None], right, up, forward], -1).float()


def trace(primitives: Tensor, views: Tensor, resolution: int) -> Tensor:
    """What each pixel sees: colour (3), hit, normal (3), distance; zeros where nothing is hit.

    Args:
        primitives: `Solid.rows()` as a tensor. [P, 25]
        views: From `cameras`. [B, 12]
        resolution: Pixels a side; row 0 is the top.

    Returns: [B, R, R, 8] float32
    """
    if primitives.device.type == "cpu" and extension.load("toybox"):
        return torch.ops.toybox.trace(primitives, views, resolution)
    return reference.trace(primitives, views, resolution)


def query(primitives: Tensor, points: Tensor) -> Tensor:
    """Signed distance (negative inside) and colour of the nearest primitive. [M, 3] -> [M, 4]"""
    if primitives.device.type == "cpu" and extension.load("toybox"):
        return torch.ops.toybox.query(primitives, points)
    return reference.query(primitives, points)
