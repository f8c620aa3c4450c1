"""What is worn and what is stood on: each function adds it to a finished Solid."""

from __future__ import annotations

from toybox.primitives import rotate_x, rotate_y
from toybox.shapes.parts import SIDES, darker, lighter


def hat(solid, colour):
    """A top hat with a band, on the head."""
    (x, y, z), r = solid.head
    band = darker(colour, 0.7) if sum(colour) > 1.5 else lighter(colour, 0.75)
    solid.cylinder((x, y + 0.08 * r, z), 1.35 * r, 0.12 * r, colour, rounding=0.1 * r)
    solid.cylinder((x, y + 0.85 * r, z), 0.88 * r, 0.75 * r, colour, rounding=0.12 * r)
    solid.cylinder((x, y + 0.36 * r, z), 0.93 * r, 0.18 * r, band, rounding=0.04 * r)


def crown(solid, colour):
    """A ring with six points, on the head."""
    (x, y, z), r = solid.head
    solid.cone((x, y + 0.25 * r, z), 0.35 * r, 0.9 * r, 1.0 * r, colour)
    solid.torus((x, y + 0.02 * r, z), 0.9 * r, 0.12 * r, lighter(colour, 0.5))
    for azimuth in range(0, 360, 60):
        dx, _, dz = rotate_y(azimuth + 30) @ (0.85 * r, 0, 0)
        solid.cone((x + dx, y + 0.9 * r, z + dz), 0.4 * r, 0.36 * r, 0.08 * r, colour)
        solid.sphere((x + dx, y + 1.35 * r, z + dz), 0.19 * r, lighter(colour, 0.5))


def scarf(solid, colour):
    """A thick ring around the neck with an end hanging in front."""
    (x, y, z), r, tilt = solid.neck
    solid.torus((x, y, z), r, 0.3 * r, colour, rotation=rotate_x(tilt))
    _, dy, dz = rotate_x(tilt) @ (0, 0, 1.08 * r)
    hang = rotate_x(min(tilt, 0) - 4)
    for along, half, shade in ((-0.45, 0.55, colour), (-1.12, 0.2, lighter(colour, 0.7))):
        at = hang @ (0, along * r, 0.04 * r) + (x + 0.4 * r, y + dy, z + dz)
        solid.box(at, (0.32 * r, half * r, 0.18 * r), shade, rounding=0.1 * r, rotation=hang)


def box(solid, colour):
    """A crate under the object: dark panels in a frame."""
    (x, z), (wide, deep), floor = _ground(solid)
    size = (wide + deep) / 2
    wide, deep, height, bar = wide * 0.9, deep * 0.9, 0.36 * size, 0.1 * size
    y = floor - height + 0.02 * size
    solid.box((x, y, z), (wide - 0.3 * bar, height - 0.3 * bar, deep - 0.3 * bar), darker(colour, 0.3))
    for up in SIDES:
        solid.box((x, y + up * (height - bar), z), (wide, bar, deep), colour, rounding=0.3 * bar)
        for side in SIDES:
            at = (x + side * (wide - bar), y, z + up * (deep - bar))
            solid.box(at, (bar, height, bar), colour, rounding=0.3 * bar)


def cushion(solid, colour):
    """A plump square pillow with a tassel at each corner."""
    (x, z), (wide, deep), floor = _ground(solid)
    size = (wide + deep) / 2
    wide, deep, y = 0.75 * wide + 0.3 * size, 0.75 * deep + 0.3 * size, floor - 0.22 * size
    solid.box((x, y, z), (wide, 0.13 * size, deep), colour, rounding=0.125 * size)
    solid.ellipsoid((x, y, z), (wide, 0.31 * size, deep), colour, blend=0.2 * size)
    for dx in SIDES:
        for dz in SIDES:
            solid.sphere((x + dx * wide * 0.95, y, z + dz * deep * 0.95), 0.14 * size, lighter(colour, 0.5))


def plate(solid, colour):
    """A dish with a raised rim."""
    (x, z), (wide, deep), floor = _ground(solid)
    size = (wide + deep) / 2
    solid.cone((x, floor - 0.09 * size, z), 0.13 * size, 0.75 * size, 1.22 * size, colour)
    solid.torus((x, floor + 0.06 * size, z), 1.2 * size, 0.1 * size, lighter(colour, 0.35))


def _ground(solid):
    """Where something stands: centre in x and z, half the width and depth of a support, height of the lowest point."""
    low, high = solid.bounds()
    half, least = (high - low) / 2, 0.3 * (high - low)[1]
    mean = (half[0] + half[2]) / 2
    wide, deep = (max(0.65 * half[i] + 0.35 * mean, least) for i in (0, 2))
    return ((low[0] + high[0]) / 2, (low[2] + high[2]) / 2), (wide, deep), low[1]
