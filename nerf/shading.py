"""From albedo and normals to colour (DreamFusion, arXiv:2209.14988, eq. 8).

Letters in shapes: B views, N rays, M samples.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nerf.types import Cameras, Shading

MODES = ("albedo", "lambertian", "textureless", "normal")


def needs_normals(shading: Shading) -> bool:
    """Whether the colours of this shading depend on normals.

    Raises:
        ValueError: there is no shading of that name.
    """
    if shading.mode not in MODES:
        raise ValueError(f"unknown shading '{shading.mode}': choose one of {', '.join(MODES)}")
    return shading.mode != "albedo"


def view_lights(shading: Shading, cameras: Cameras) -> Tensor:
    """Unit direction towards the light of each view: the given one, or from the origin to the camera. [B, 3]"""
    if shading.light is not None:
        return F.normalize(shading.light, dim=-1)
    return F.normalize(cameras.c2w[:, :3, 3], dim=-1)


def per_sample(values: Tensor, counts: Tensor, samples: int) -> Tensor:
    """Repeat a value per view for the samples of that view.

    Samples lie in the order of the rays and rays in the order of the views, so a view's samples are one block.

    Args:
        values: One row per view. [B, C]
        counts: Samples of each ray, or of each view. [N], N a multiple of B
        samples: M, about the sum of the counts: those behind it count as the last view's, those it lacks are left out.

    Returns:
        One row per sample. [M, C]
    """
    between = counts.view(len(values), -1).sum(1).cumsum(0)[:-1].clamp(max=samples)
    borders = F.pad(F.pad(between, (1, 0)), (0, 1), value=samples)
    return torch.repeat_interleave(values, borders.diff(), dim=0, output_size=samples)


def shade(shading: Shading, albedo: Tensor, normals: Tensor | None, lights: Tensor | None) -> Tensor:
    """Colour of each point.

    lambertian: albedo * (ambient + (1 - ambient) * max(0, normal . light)); textureless: the same with white
    albedo; normal: (normal + 1) / 2; albedo: as it is. Differentiable in albedo and normals.

    Args:
        shading: Mode and share of ambient light.
        albedo: In [0, 1]. [M, 3]
        normals: Unit, outwards; not read for albedo. [M, 3]
        lights: Unit, towards the light; not read for albedo and normal. [M, 3]

    Returns:
        Colour in [0, 1]. [M, 3]

    Raises:
        ValueError: there is no shading of that name.
    """
    if not needs_normals(shading):
        return albedo
    if shading.mode == "normal":
        return (normals + 1) / 2
    diffuse = (normals * lights).sum(-1, keepdim=True).clamp(min=0)
    light = shading.ambient + (1 - shading.ambient) * diffuse
    return light.expand(-1, 3) if shading.mode == "textureless" else albedo * light
