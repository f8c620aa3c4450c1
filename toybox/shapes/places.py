"""Nature and buildings. Front is +z, up is +y; each function is (random generator, colour) -> Solid."""

from __future__ import annotations

from toybox.primitives import Solid, rotate_x, rotate_z
from toybox.shapes.parts import BLACK, CREAM, SIDES, WHITE, WOOD, around, darker, on_dome


def mushroom(rng, colour):
    s, height = Solid(), 0.32 * around(rng)
    s.cone((0, -0.25, 0), 0.3, 0.2 * around(rng), 0.15 * around(rng), CREAM)
    s.ellipsoid((0, 0.1, 0), (0.52 * around(rng, 0.05), height, 0.52), colour)
    for i in range(11):
        azimuth, polar = i * 2.4 + rng.uniform(0, 0.4), 0.25 + 1.05 * ((i * 0.37) % 1)
        d = on_dome(polar, azimuth)
        s.ellipsoid((d[0] * 0.5, 0.1 + d[1] * height * 0.97, d[2] * 0.5), (0.08, 0.065, 0.08), WHITE)
    s.cylinder((0, 0.02, 0), 0.5, 0.05, darker(CREAM, 0.06), rounding=0.04)
    return s


def snowman(rng, colour):
    s, head = Solid(), 0.18 * around(rng, 0.06)
    s.ellipsoid((0, -0.38, 0), (0.34 * around(rng, 0.06), 0.31, 0.34), WHITE)
    s.ellipsoid((0, 0.02, 0), (0.26 * around(rng, 0.06), 0.24, 0.26), WHITE)
    s.sphere((0, 0.34, 0), head, WHITE)
    s.cone((0, 0.33, 0.25), 0.11, 0.05, 0.008, (0.95, 0.5, 0.1), rotation=rotate_x(90))
    for x in SIDES:
        s.ellipsoid((x * 0.075, 0.4, 0.15), (0.032, 0.034, 0.03), BLACK)
        s.cylinder((x * 0.35, 0.1, 0), 0.032, 0.15, WOOD, rotation=rotate_z(x * -60))
    for y in (-0.08, 0.02, 0.11):
        s.ellipsoid((0, y, 0.255 - abs(y) * 0.12), (0.036, 0.036, 0.03), BLACK)
    s.cylinder((0, 0.49, 0), 0.22, 0.025, colour)
    s.cylinder((0, 0.61, 0), 0.14, 0.12, colour)
    s.torus((0, 0.2, 0), 0.165, 0.055, colour)
    s.box((0.09, 0.08, 0.24), (0.05, 0.11, 0.025), colour, rotation=rotate_x(-8))
    return s


def house(rng, colour):
    s, wall, depth = Solid(), 0.26 * around(rng), 0.36 * around(rng)
    s.box((0, -0.2, 0), (0.36, wall, depth), CREAM, rounding=0.01)
    top = -0.2 + wall
    for x in SIDES:
        tilt = rotate_z(-x * 42)
        s.box((x * 0.2, top + 0.17, 0), (0.31, 0.04, depth + 0.08), colour, rotation=tilt, rounding=0.02)
    for z in (-depth + 0.02, depth - 0.02):
        s.box((0, top, z), (0.25, 0.25, 0.02), CREAM, rotation=rotate_z(45), rounding=0.01)
    s.box((0.2, top + 0.34, -0.1), (0.07, 0.15, 0.07), (0.6, 0.27, 0.2), rounding=0.01)
    s.box((0, -0.2 - wall + 0.19, depth), (0.1, 0.19, 0.025), WOOD, rounding=0.01)
    s.sphere((0.06, -0.2 - wall + 0.19, depth + 0.03), 0.02, (0.95, 0.8, 0.2))
    for x in SIDES:
        s.box((x * 0.235, -0.16, depth), (0.075, 0.085, 0.02), (0.35, 0.62, 0.9), rounding=0.01)
        s.box((x * 0.36, -0.16, 0), (0.02, 0.085, 0.11), (0.35, 0.62, 0.9), rounding=0.01)
    return s


def tree(rng, colour):
    s = Solid()
    s.cone((0, -0.42, 0), 0.2, 0.13, 0.1, WOOD)
    for i, (y, width) in enumerate(((-0.12, 0.42), (0.14, 0.34), (0.38, 0.25))):
        shade = darker(colour, 0.12 * (2 - i))
        s.cone((0, y, 0), 0.19, width * around(rng, 0.06), 0.05, shade)
    return s
