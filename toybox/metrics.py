"""How right a result looks: against the true shape and colour of the words, which Toybox knows.

A word stands for many shapes, so a result is compared with VARIANTS random true ones and the best counts.
Letters: V = 16 views, R pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from toybox import shapes
from toybox.captions import Caption
from toybox.colour import ciede2000, lab
from toybox.tracer import cameras, trace

VARIANTS = 16
SEED = 5  # of the variants
AZIMUTHS, ELEVATIONS = tuple(range(0, 360, 45)), (10.0, 35.0)  # degrees
RADIUS, FOVY, SIZE = 3.2, 20.0, 64
TWO_HEADED = 0.5  # `Score.ends` below which front and back are one; the least of 35 results was 0.83


def evaluation_views() -> tuple[Tensor, Tensor]:
    """Azimuth and elevation in degrees of the 16 views, all azimuths of one elevation after the other. [16] each"""
    azimuth = torch.tensor(AZIMUTHS, dtype=torch.float32).repeat(len(ELEVATIONS))
    return azimuth, torch.tensor(ELEVATIONS).repeat_interleave(len(AZIMUTHS))


@dataclass(frozen=True)
class Truth:
    """VARIANTS true objects, and pictures of them from the 16 views, unshaded."""

    solids: tuple[Tensor, ...]  # primitives of each variant [P, ROW]
    silhouettes: Tensor  # [VARIANTS, V, R, R] bool
    albedo: Tensor  # [VARIANTS, V, R, R, 3] in [0, 1], 0 outside


@lru_cache(maxsize=8)  # 14 MB each
def truth(caption: Caption, size: int = SIZE, seed: int = SEED) -> Truth:
    """True objects and pictures of what a caption says."""
    azimuth, elevation = evaluation_views()
    views = cameras(azimuth, elevation, torch.full_like(azimuth, RADIUS), torch.full_like(azimuth, FOVY))
    rng = np.random.default_rng(seed)
    solids = tuple(torch.from_numpy(shapes.build(caption, rng=rng)) for _ in range(VARIANTS))
    traced = torch.stack([trace(solid, views, size) for solid in solids])
    return Truth(solids, traced[..., 3] > 0.5, traced[..., :3])


def iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of masks; 1 where both are empty. [..., R, R] bool, twice -> [...]"""
    both, either = (first & second).sum((-2, -1)), (first | second).sum((-2, -1))
    return torch.where(either > 0, both / either.clamp(min=1), torch.ones_like(both, dtype=torch.float32))


@dataclass(frozen=True)
class Score:
    iou: float  # mean over the views, best variant
    colour: float  # mean CIEDE2000 over the common silhouette, same variant
    variant: int  # which one that was
    ends: float  # `ends_differ` as a share of that variant's: 1 where front and back differ as they should


def score(caption: Caption, opacity: Tensor, albedo: Tensor) -> Score:
    """Compare renderings of a result with the truth, without any alignment.

    Args:
        caption: What the result should be.
        opacity: From the `evaluation_views`, radius 3.2, fovy 20. [V, R, R] in [0, 1]
        albedo: Unshaded colour, not premultiplied. [V, R, R, 3] in [0, 1]
    """
    true = truth(caption, opacity.shape[-1])
    mask = opacity > 0.5
    overlaps = iou(true.silhouettes, mask).mean(1)
    best = int(overlaps.argmax())
    common = true.silhouettes[best] & mask
    colour = ciede2000(lab(albedo[common]), lab(true.albedo[best][common])).mean() if common.any() else torch.nan
    ends = ends_differ(opacity, albedo) / ends_differ(true.silhouettes[best].float(), true.albedo[best]).clamp(min=1e-6)
    return Score(float(overlaps[best]), float(colour), best, float(ends))


def ends_differ(opacity: Tensor, albedo: Tensor) -> Tensor:
    """How much an object differs from itself with front and back exchanged: 0 for two heads, or two backs.

    Every view is compared with the mirror image of the view that the exchange puts in its place: mean absolute
    difference of premultiplied colour and opacity, over the pixels that either covers, mean of the views that show
    anything. Scalar; NaN where none does.

    Args: as of `score`.
    """
    azimuth, elevation = (angle.tolist() for angle in evaluation_views())
    place = {view: i for i, view in enumerate(zip(azimuth, elevation, strict=True))}
    opposite = [place[(180 - a) % 360, e] for a, e in place]
    picture = torch.cat([albedo * opacity[..., None], opacity[..., None]], -1)
    other = picture[opposite].flip(2)
    covered = torch.maximum(opacity, other[..., 3]).sum((1, 2))
    return ((picture - other).abs().mean(-1).sum((1, 2)) / covered).nanmean()
