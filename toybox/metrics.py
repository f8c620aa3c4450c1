"""How right a result is: against the true shape and colour of the words, which Toybox knows.

A word stands for many shapes, so a result is compared with VARIANTS random true ones and the best counts.
Letters: V = 16 views, R pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from toybox import shapes
from toybox.colour import ciede2000, lab
from toybox.tracer import cameras, trace
from toybox.words import OBJECTS, parse

VARIANTS = 16
AZIMUTHS, ELEVATIONS = tuple(range(0, 360, 45)), (10.0, 35.0)  # degrees
RADIUS, FOVY, SIZE = 3.2, 20.0, 64


def evaluation_views() -> tuple[Tensor, Tensor]:
    """Azimuth and elevation in degrees of the 16 views, all azimuths of one elevation after the other. [16] each"""
    azimuth = torch.tensor(AZIMUTHS, dtype=torch.float32).repeat(len(ELEVATIONS))
    return azimuth, torch.tensor(ELEVATIONS).repeat_interleave(len(AZIMUTHS))


@dataclass(frozen=True)
class Truth:
    """Pictures of VARIANTS true objects from the 16 views, unshaded."""

    silhouettes: Tensor  # [VARIANTS, V, R, R] bool
    albedo: Tensor  # [VARIANTS, V, R, R, 3] in [0, 1], 0 outside


def truth(text: str, size: int = SIZE, seed: int = 5) -> Truth:
    """The true pictures of a caption. Raises ValueError where Toybox does not know a word."""
    name, colour = parse(text)
    azimuth, elevation = evaluation_views()
    views = cameras(azimuth, elevation, torch.full_like(azimuth, RADIUS), torch.full_like(azimuth, FOVY))
    rng = np.random.default_rng(seed)
    traced = [trace(torch.from_numpy(shapes.build(name, colour, rng=rng)), views, size) for _ in range(VARIANTS)]
    traced = torch.stack(traced)
    return Truth(traced[..., 3] > 0.5, traced[..., :3])


def iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of masks; 1 where both are empty. [..., R, R] bool, twice -> [...]"""
    both, either = (first & second).sum((-2, -1)), (first | second).sum((-2, -1))
    return torch.where(either > 0, both / either.clamp(min=1), torch.ones_like(both, dtype=torch.float32))


@dataclass(frozen=True)
class Score:
    iou: float  # mean over the views, best variant
    colour: float  # mean CIEDE2000 over the common silhouette, same variant
    janus: bool | None  # the back looks more like the front than like the back; None: the object has no front
    variant: int  # which one that was


def score(text: str, opacity: Tensor, albedo: Tensor) -> Score:
    """Compare renderings of a result with the truth, without any alignment.

    Args:
        text: The caption.
        opacity: From the `evaluation_views`, radius 3.2, fovy 20. [V, R, R] in [0, 1]
        albedo: Unshaded colour, not premultiplied. [V, R, R, 3] in [0, 1]
    """
    true = truth(text, opacity.shape[-1])
    mask = opacity > 0.5
    overlaps = iou(true.silhouettes, mask).mean(1)
    best = int(overlaps.argmax())
    common = true.silhouettes[best] & mask
    colour = ciede2000(lab(albedo[common]), lab(true.albedo[best][common])).mean() if common.any() else torch.nan
    janus = is_janus(mask, albedo, true) if OBJECTS[parse(text)[0]].has_front else None
    return Score(float(overlaps[best]), float(colour), janus, best)


def is_janus(mask: Tensor, albedo: Tensor, true: Truth) -> bool:
    """Whether the two back views look more like a true front than like a true back, silhouette and colour together."""
    half = len(AZIMUTHS) // 2
    backs = [half, half + len(AZIMUTHS)]
    fronts = [0, len(AZIMUTHS)]

    def difference(views: list[int]) -> float:
        """Of the result's back to the nearest true picture: mean CIEDE2000, 50 where only one is there."""
        worst = []
        for back, view in zip(backs, views, strict=True):
            silhouettes, colours = true.silhouettes[:, view], true.albedo[:, view]
            both, either = silhouettes & mask[back], silhouettes | mask[back]
            apart = ciede2000(lab(albedo[back]).expand_as(colours), lab(colours))
            total = torch.where(both, apart, 50.0 * (either & ~both))
            worst.append((total.sum((1, 2)) / either.sum((1, 2)).clamp(min=1)).min())
        return float(sum(worst))

    return difference(fronts) < difference(backs)
