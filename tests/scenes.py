"""Fields whose pictures have a closed form, and cameras to look at them."""

from __future__ import annotations

import math

import torch

from nerf.cameras import cameras_from_views
from nerf.fields.base import Field
from nerf.types import Views

COLOUR = (0.8, 0.4, 0.2)


class Ball(Field):
    """A ball of constant density and colour around `centre`."""

    def __init__(self, radius=0.5, sigma=400.0, bound=1.0, centre=(0.0, 0.0, 0.0), softness=0.0, **options):
        super().__init__(bound, **options)
        self.radius, self.sigma, self.softness = radius, sigma, softness
        self.register_buffer("centre", torch.tensor(centre))
        self.register_buffer("colour", torch.tensor(COLOUR))

    def potential(self, x):
        return self.radius - (x - self.centre).norm(dim=-1)

    def density(self, x):
        depth = self.potential(x)
        inside = (depth > 0).float() if self.softness == 0 else torch.sigmoid(depth / self.softness)
        return self.sigma * inside

    def query(self, x):
        return self.density(x), self.colour.expand(len(x), 3)


class Fog(Field):
    """The same density and colour everywhere in the box."""

    def __init__(self, sigma, bound=1.0):
        super().__init__(bound)
        self.sigma = sigma
        self.register_buffer("colour", torch.tensor(COLOUR))

    def query(self, x):
        return torch.full_like(x[:, 0], self.sigma), self.colour.expand(len(x), 3)


def cameras(azimuth=(0.0,), elevation=0.0, radius=3.0, fovy=40.0, height=32, width=32, device="cpu"):
    """One camera per azimuth, in degrees, that looks at the origin."""
    azimuth = torch.tensor(azimuth, device=device)
    views = Views(azimuth, torch.full_like(azimuth, elevation), torch.full_like(azimuth, radius))
    return cameras_from_views(views, fovy, height, width)


def disc_pixels(radius, distance, fovy, height):
    """Area in pixels of the picture of a ball in the middle: its outline is a cone around the axis."""
    tangent = math.tan(math.asin(radius / distance))
    return math.pi * (tangent / math.tan(math.radians(fovy) / 2) * height / 2) ** 2
