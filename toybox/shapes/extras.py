"""What is worn and what is stood on: each function adds it to a finished Solid."""

from __future__ import annotations

import numpy as np

from toybox.primitives import rotate_x, rotate_y
from toybox.shapes.parts import darker, lighter


def hat(solid, colour):
    """A top hat with a band, on the head."""
    (x, y, z), r = solid.head
    solid.cylinder((x, y + 0.08 * r, z), 1.35 * r, 0.1 * r, colour, rounding=0.08 * r)
    solid.cylinder((x, y + 0.85 * r, z), 0.85 * r, 0.75 * r, colour, rounding=0.1 * r)
    solid.cylinder((x, y + 0.32 * r, z), 0.89 * r, 0.14 * r, darker(colour, 0.45), rounding=0.02 * r)


def crown(solid, colour):
    """A ring with six points, on the head."""
    (x, y, z), r = solid.head
    solid.cone((x, y + 0.25 * r, z), 0.3 * r, 0.88 * r, 1.0 * r, colour)
    for azimuth in range(0, 360, 60):
        dx, _, dz = rotate_y(azimuth) @ (0.82 * r, 0, 0)
        solid.cone((x + dx, y + 0.85 * r, z + dz), 0.4 * r, 0.3 * r, 0.03 * r, colour)
        solid.sphere((x + dx, y + 1.25 * r, z + dz), 0.13 * r, lighter(colour, 0.5))


def scarf(solid, colour):
    """A thick ring around the neck with an end hanging in front."""
    (x, y, z), r, tilt = solid.neck
    solid.torus((x, y, z), r, 0.26 * r, colour, rotation=rotate_x(tilt))
    turn = rotate_x(tilt)
    dx, dy, dz = turn @ (0.35 * r, -0.55 * r, 1.1 * r)
    solid.box((x + dx, y + dy, z + dz), (0.24 * r, 0.62 * r, 0.13 * r), colour, rounding=0.08 * r, rotation=turn)


def box(solid, colour):
    """A cube under the object."""
    x, z, half, floor = _ground(solid)
    height = 0.45 * half
    solid.box((x, floor - height, z), (half, height, half), colour, rounding=0.06 * half)


def cushion(solid, colour):
    """A flat pillow with a button on each side."""
    x, z, half, floor = _ground(solid)
    solid.ellipsoid((x, floor - 0.16 * half, z), (1.3 * half, 0.34 * half, 1.3 * half), colour)
    for azimuth in range(45, 360, 90):  # four corners
        dx, _, dz = rotate_y(azimuth) @ (1.12 * half, 0, 0)
        solid.ellipsoid((x + dx, floor - 0.18 * half, z + dz), (0.3 * half, 0.2 * half, 0.3 * half), colour, blend=0.12)


def plate(solid, colour):
    """A dish with a raised rim."""
    x, z, half, floor = _ground(solid)
    solid.cone((x, floor - 0.08 * half, z), 0.1 * half, 0.9 * half, 1.35 * half, colour)
    solid.torus((x, floor, z), 1.32 * half, 0.07 * half, lighter(colour, 0.35))


def _ground(solid):
    """Where something stands: centre x and z, half the width of the support under it, height of the lowest point."""
    low, high = solid.bounds()
    half = 0.5 * float(np.sqrt((high[0] - low[0]) * (high[2] - low[2])))
    return (low[0] + high[0]) / 2, (low[2] + high[2]) / 2, max(half, 0.2 * (high[1] - low[1])), low[1]
