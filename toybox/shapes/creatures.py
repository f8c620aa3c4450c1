"""Birds, reptiles, insects and what lives in the sea. Front is +z, up is +y; each function is (random generator, colour) -> Solid."""

from __future__ import annotations

from toybox.primitives import Solid, rotate_x, rotate_z
from toybox.shapes.parts import BEAK, BLACK, SIDES, WHITE, around, darker


def duck(rng, colour):
    s, head = Solid(), 0.21 * around(rng)
    s.ellipsoid((0, -0.2, -0.05), (0.31 * around(rng), 0.25, 0.42), colour)
    s.sphere((0, 0.2, 0.2), head, colour, blend=0.1)
    s.ellipsoid((0, -0.08, -0.42), (0.13, 0.1, 0.17), colour, rotation=rotate_x(30), blend=0.08)
    s.ellipsoid((0, 0.15, 0.43), (0.12, 0.05, 0.14), BEAK)
    for x in SIDES:
        s.ellipsoid((x * 0.11, 0.26, 0.36), (0.042, 0.048, 0.04), BLACK)
        s.ellipsoid((x * 0.28, -0.16, -0.1), (0.08, 0.16, 0.27), darker(colour, 0.15))
    return s


def penguin(rng, colour):
    s, width = Solid(), 0.3 * around(rng)
    s.ellipsoid((0, -0.1, 0), (width, 0.42, 0.28), colour)
    s.ellipsoid((0, -0.14, 0.07), (width * 0.78, 0.36, 0.25), WHITE)
    s.sphere((0, 0.33, 0.02), 0.21 * around(rng, 0.06), colour, blend=0.06)
    s.cone((0, 0.3, 0.27), 0.09, 0.07, 0.01, BEAK, rotation=rotate_x(90))
    for x in SIDES:
        s.ellipsoid((x * 0.085, 0.36, 0.165), (0.07, 0.075, 0.06), WHITE)
        s.ellipsoid((x * 0.085, 0.365, 0.215), (0.034, 0.04, 0.025), BLACK)
        s.ellipsoid((x * (width + 0.03), -0.08, 0.0), (0.065, 0.25, 0.13), colour, rotation=rotate_z(x * 18))
        s.ellipsoid((x * 0.14, -0.5, 0.12), (0.12, 0.05, 0.18), BEAK)
    s.ellipsoid((0, -0.42, -0.26), (0.1, 0.06, 0.1), colour)
    return s
