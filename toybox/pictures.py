"""Training pictures: random objects seen by the cameras, lights and backgrounds that the trainer uses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from toybox import shapes
from toybox.tracer import cameras, trace
from toybox.words import COLOURS, OBJECTS

SIZE = 128  # pixels a side
RADIUS, FOVY, POLAR, ABOVE = (3.05, 3.35), (18.0, 21.0), (45.0, 105.0), (5.0, 45.0)
ABOVE_SHARE = 0.07  # pictures from overhead
SAY_COLOUR = 0.6  # captions that name the colour
ALBEDO_SHARE, TEXTURELESS_SHARE = 0.5, 0.05  # the rest is lambertian
AMBIENT = (0.4, 1.0)
COLOURED_BACKGROUNDS = 0.3  # the rest is grey


@dataclass(frozen=True)
class Pictures:
    images: np.ndarray  # [B, 3, SIZE, SIZE] uint8
    objects: np.ndarray  # [B] index into words.OBJECTS
    colours: np.ndarray  # [B] index into words.COLOURS, -1: the caption names none
    azimuth: np.ndarray  # [B] degrees in [-180, 180)
    elevation: np.ndarray  # [B] degrees


def shade(buffers: Tensor, mode: str, ambient: float, light: Tensor) -> Tensor:
    """Colour of what was traced, as the trainer shades it (DreamFusion, arXiv:2209.14988, section 3.2).

    Args:
        buffers: From `tracer.trace`. [H, W, 8]
        mode: albedo, lambertian or textureless.
        ambient: Share of ambient light in [0, 1].
        light: Unit direction towards the light. [3]

    Returns: [H, W, 3] in [0, 1]; 0 where nothing is hit
    """
    albedo = torch.ones_like(buffers[..., :3]) if mode == "textureless" else buffers[..., :3]
    if mode != "albedo":
        albedo = albedo * (ambient + (1 - ambient) * (buffers[..., 4:7] @ light).clamp(min=0))[..., None]
    return albedo * buffers[..., 3:4]


def compose(colour: Tensor, hit: Tensor, background: Tensor) -> Tensor:
    """Antialias by averaging 2 x 2 subpixels over the background. [2R, 2R, 3], [2R, 2R, 1], [3] -> [R, R, 3]"""
    picture = colour + (1 - hit) * background
    return torch.nn.functional.avg_pool2d(picture.permute(2, 0, 1), 2).permute(1, 2, 0)


def random_background(rng: np.random.Generator) -> Tensor:
    """Grey, or a soft colour: anything at all, so that only opacity explains it. [3] in [0, 1]"""
    grey = rng.uniform(0, 1)
    colour = 0.5 * grey + 0.5 * rng.uniform(0, 1, 3) if rng.random() < COLOURED_BACKGROUNDS else np.full(3, grey)
    return torch.tensor(colour, dtype=torch.float32)


def sample(rng: np.random.Generator, *, views: int = 2, shadings: int = 2) -> Pictures:
    """One random object from `views` cameras, each picture shaded `shadings` times."""
    index = int(rng.integers(len(OBJECTS)))
    colour = int(rng.integers(len(COLOURS))) if rng.random() < SAY_COLOUR else -1
    name = list(OBJECTS)[index]
    solid = torch.from_numpy(shapes.build(name, list(COLOURS)[colour] if colour >= 0 else None, rng=rng))
    azimuth = rng.uniform(-180, 180, views)
    polar = np.where(rng.random(views) < ABOVE_SHARE, rng.uniform(*ABOVE, views), rng.uniform(*POLAR, views))
    radius = rng.uniform(*RADIUS, views)
    rig = cameras(azimuth, 90 - polar, radius, rng.uniform(*FOVY, views))
    images = []
    for view, buffers in zip(rig, trace(solid, rig, 2 * SIZE), strict=True):
        for _ in range(shadings):
            draw = rng.random()
            mode = "albedo" if draw < ALBEDO_SHARE else "textureless" if draw > 1 - TEXTURELESS_SHARE else "lambertian"
            light = torch.nn.functional.normalize(view[:3] + torch.from_numpy(rng.normal(size=3)).float(), dim=0)
            picture = compose(
                shade(buffers, mode, rng.uniform(*AMBIENT), light), buffers[..., 3:4], random_background(rng)
            )
            images.append((picture * 255).round().to(torch.uint8).permute(2, 0, 1))
    count = views * shadings
    return Pictures(
        torch.stack(images).numpy(),
        np.full(count, index),
        np.full(count, colour),
        azimuth.repeat(shadings),
        (90 - polar).repeat(shadings),
    )
