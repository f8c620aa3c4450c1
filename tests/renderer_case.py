"""Both renderers, small, for the tests of what they share."""

import math

import pytest
import torch
from torch.testing import assert_close

from nerf.fields import HashGridField
from nerf.renderers import RaymarchRenderer, StratifiedRenderer

STEP = 2 * math.sqrt(3) / 256  # length of a step of the packed renderer below, scene units


def packed(field, background=None, **options):
    renderer = RaymarchRenderer(field, background, **{"max_steps": 256, "resolution": 32, **options})
    renderer.update(0)
    return renderer


def stratified(field, background=None, **options):
    return StratifiedRenderer(field, background, **{"num_steps": 192, "upsample_steps": 64, **options})


RENDERERS = pytest.mark.parametrize("build", [packed, stratified])


def seed(value=0):
    return torch.Generator().manual_seed(value)


def small_field(**options):
    blob = {"blob_density": 6.0, "blob_radius": 0.5, **options}
    field = HashGridField(num_levels=4, log2_hashmap_size=10, desired_resolution=32, hidden_dim=16, **blob)
    with torch.no_grad():
        field.encoder.embeddings.uniform_(-0.5, 0.5, generator=seed(9))
    return field


def same_picture(one, other, tolerance):
    for name in ("rgb", "opacity", "depth", "normal"):
        a, b = getattr(one, name), getattr(other, name)
        if a is None and b is None:
            continue
        assert_close(a, b, atol=tolerance, rtol=0, msg=lambda text, name=name: f"{name}: {text}")
