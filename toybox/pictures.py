"""Training pictures: random objects seen by the cameras, lights and backgrounds that the trainer uses."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from toybox import shapes
from toybox.captions import Caption, is_held_out
from toybox.tracer import cameras, trace
from toybox.words import COLOURS, OBJECTS, PATTERNS, SUPPORTS, WORN

SIZE = 128  # pixels a side
RADIUS, FOVY, POLAR, ABOVE = (3.05, 3.35), (18.0, 21.0), (45.0, 105.0), (5.0, 45.0)
ABOVE_SHARE = 0.2  # pictures from overhead; of .07 the judge had learnt to name half of the objects there
SAY_COLOUR = 0.6  # nouns of a caption whose colour is named
PATTERN_SHARE, WORN_SHARE, SUPPORT_SHARE = 0.15, 0.45, 0.2  # captions that say one; WORN_SHARE: of those that can wear
AMBIENT = (0.5, 1.0)


@dataclass(frozen=True)
class Look:
    """How pictures look, whatever they show: shares of them, in [0, 1]."""

    lambertian: float = 0.25  # lit; the rest shows the albedo, which is what Toybox's preset trains on
    textureless: float = 0.0  # lit, and white all over, whatever colour is said
    coloured: float = 0.3  # before a background of some colour; the rest is before grey

    def __post_init__(self):
        shares = self.lambertian, self.textureless, self.coloured
        if not (all(0 <= share <= 1 for share in shares) and self.lambertian + self.textureless <= 1):
            raise ValueError(f"shares must lie in [0, 1], lambertian and textureless together as well: {self}")


@dataclass(frozen=True)
class Pictures:
    images: np.ndarray  # [B, 3, SIZE, SIZE] uint8
    captions: np.ndarray  # [B] str
    azimuth: np.ndarray  # [B] degrees in [-180, 180)
    elevation: np.ndarray  # [B] degrees


def shade(buffers: Tensor, ambient: float, light: Tensor) -> Tensor:
    """Lambertian colour of what was traced (DreamFusion, arXiv:2209.14988, section 3.2); ambient 1 is the albedo.

    Args:
        buffers: From `tracer.trace`. [H, W, 8]
        ambient: Share of ambient light in [0, 1].
        light: Unit direction towards the light. [3]

    Returns: [H, W, 3] in [0, 1]; 0 where nothing is hit
    """
    lit = ambient + (1 - ambient) * (buffers[..., 4:7] @ light).clamp(min=0)
    return buffers[..., :3] * lit[..., None] * buffers[..., 3:4]


def compose(colour: Tensor, hit: Tensor, background: Tensor) -> Tensor:
    """Antialias by averaging 2 x 2 subpixels over the background. [2R, 2R, 3], [2R, 2R, 1], [3] -> [R, R, 3]"""
    picture = colour + (1 - hit) * background
    return torch.nn.functional.avg_pool2d(picture.permute(2, 0, 1), 2).permute(1, 2, 0)


def random_background(rng: np.random.Generator, coloured: float) -> Tensor:
    """Grey, or a soft colour: anything at all, so that only opacity explains it. [3] in [0, 1]"""
    grey = rng.uniform(0, 1)
    colour = 0.5 * grey + 0.5 * rng.uniform(0, 1, 3) if rng.random() < coloured else np.full(3, grey)
    return torch.tensor(colour, dtype=torch.float32)


def random_caption(rng: np.random.Generator, *, held_out: bool = False) -> Caption:
    """A random sentence of the small world; without `held_out`, none that holds a pair kept back from training."""

    def one(words, share):
        return list(words)[rng.integers(len(words))] if rng.random() < share else None

    while True:
        name = one(OBJECTS, 1)
        caption = Caption(
            name,
            colour=one(COLOURS, SAY_COLOUR),
            pattern=one(PATTERNS, PATTERN_SHARE),
            worn=one(WORN, WORN_SHARE * OBJECTS[name].wears),
            support=one(SUPPORTS, SUPPORT_SHARE),
        )
        caption = replace(
            caption,
            worn_colour=one(COLOURS, SAY_COLOUR * bool(caption.worn)),
            support_colour=one(COLOURS, SAY_COLOUR * bool(caption.support)),
        )
        if held_out or not is_held_out(caption):
            return caption


def sample(rng: np.random.Generator, *, views: int = 3, held_out: bool = False, look: Look = Look()) -> Pictures:
    """One random solid from `views` random cameras, each picture with a light and a background of its own.

    Of what is its own mirror image only the left half is shown, and the guidance mirrors the other
    (`ViewOptions.mirrored`): that a side looks one way is learnt in a minute, which way each of two does was not in
    6,000 steps.
    """
    caption = random_caption(rng, held_out=held_out)
    solid = torch.from_numpy(shapes.build(caption, rng=rng))
    azimuth = rng.uniform(-180 if OBJECTS[caption.name].one_sided else 0, 180, views)
    elevation = random_elevation(rng, views)
    return Pictures(show(solid, azimuth, elevation, rng, look), np.full(views, str(caption)), azimuth, elevation)


def random_elevation(rng: np.random.Generator, views: int) -> np.ndarray:
    """Of cameras around the object and, ABOVE_SHARE of them, over it. [B] degrees"""
    above = rng.random(views) < ABOVE_SHARE
    return 90 - np.where(above, rng.uniform(*ABOVE, views), rng.uniform(*POLAR, views))


def show(
    solid: Tensor, azimuth: np.ndarray, elevation: np.ndarray, rng: np.random.Generator, look: Look = Look()
) -> np.ndarray:
    """Pictures of a solid from given sides, [B] degrees; the rest of each is random. -> [B, 3, SIZE, SIZE] uint8"""
    views = len(azimuth)
    rig = cameras(azimuth, elevation, rng.uniform(*RADIUS, views), rng.uniform(*FOVY, views))
    images = []
    for view, buffers in zip(rig, trace(solid, rig, 2 * SIZE), strict=True):
        kind = rng.random()
        textureless = kind >= 1 - look.textureless
        if textureless:
            buffers[..., :3] = 1.0
        ambient = rng.uniform(*AMBIENT) if textureless or kind < look.lambertian else 1.0
        light = torch.nn.functional.normalize(view[:3] + torch.from_numpy(rng.normal(size=3)).float(), dim=0)
        picture = compose(shade(buffers, ambient, light), buffers[..., 3:4], random_background(rng, look.coloured))
        images.append((picture * 255).round().to(torch.uint8).permute(2, 0, 1))
    return torch.stack(images).numpy()


def make(path: Path, solids: int, seed: int, *, held_out: bool = False, look: Look = Look()) -> Pictures:
    """The pictures of `solids` random solids, made once by all cores and kept in `path` (.npz)."""
    return Pictures(**made_once(path, partial(_make_one, seed, held_out, look), solids))


def _make_one(seed: int, held_out: bool, look: Look, index: int) -> dict[str, np.ndarray]:
    return vars(sample(np.random.default_rng((seed, index)), held_out=held_out, look=look))


def made_once(path: Path, one: Callable[[int], dict[str, np.ndarray]], count: int) -> dict[str, np.ndarray]:
    """The arrays of one(0), one(1), ... joined along their first axis: made by all cores, kept in `path` (.npz)."""
    if not path.exists():
        # One thread a process: two threads that wait for each other at every picture are slower than one.
        with ProcessPoolExecutor(os.cpu_count(), initializer=torch.set_num_threads, initargs=(1,)) as pool:
            parts = list(tqdm(pool.map(one, range(count), chunksize=16), desc="pictures", unit="solid", total=count))
        part = path.with_suffix(".part.npz")
        np.savez(part, **{key: np.concatenate([p[key] for p in parts]) for key in parts[0]})
        os.replace(part, path)
    return dict(np.load(path))
