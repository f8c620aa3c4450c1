"""What drives, swims and flies. Front is +z, up is +y; each function is (random generator, colour) -> Solid."""

from __future__ import annotations

from toybox.primitives import Solid, rotate_x, rotate_y, rotate_z
from toybox.shapes.parts import BLACK, GLASS, SIDES, WHITE, around


def car(rng, colour):
    s, length, cabin = Solid(), 0.56 * around(rng, 0.08), rng.uniform(-0.08, 0.0)
    s.box((0, -0.1, 0), (0.28, 0.13, length), colour, rounding=0.07)
    s.box((0, 0.1, cabin), (0.235, 0.13, 0.3), GLASS, rounding=0.06)
    s.box((0, 0.22, cabin), (0.23, 0.05, 0.27), colour, rounding=0.045)
    for x in SIDES:
        s.box((x * 0.232, 0.1, cabin), (0.012, 0.13, 0.03), colour, rounding=0.01)
        for z in (-0.6, 0.6):
            s.cylinder((x * 0.26, -0.22, z * length), 0.145, 0.07, BLACK, rounding=0.03, rotation=rotate_z(90))
            s.cylinder((x * 0.29, -0.22, z * length), 0.07, 0.055, (0.78, 0.78, 0.8), rotation=rotate_z(90))
        s.ellipsoid((x * 0.17, -0.07, length), (0.07, 0.065, 0.035), (1.0, 0.95, 0.55))
        s.box((x * 0.17, -0.07, -length), (0.065, 0.045, 0.02), (0.75, 0.03, 0.03))
    s.box((0, -0.18, length), (0.13, 0.035, 0.02), (0.25, 0.25, 0.25))
    return s


def rocket(rng, colour):
    s, length = Solid(), 0.34 * around(rng)
    s.cylinder((0, 0, 0), 0.2, length, WHITE, rounding=0.04)
    s.cone((0, length + 0.17, 0), 0.18, 0.195, 0.02, colour)
    s.torus((0, -length + 0.08, 0), 0.19, 0.03, colour)
    s.cylinder((0, -length - 0.05, 0), 0.14, 0.06, (0.3, 0.3, 0.33))
    s.cone((0, -length - 0.18, 0), 0.1, 0.03, 0.11, (1.0, 0.6, 0.1))
    for azimuth in (45, 135, 225, 315):
        turn = rotate_y(azimuth)
        s.box(turn @ (0.26, -length + 0.02, 0), (0.1, 0.16, 0.03), colour, rotation=turn @ rotate_z(25), rounding=0.025)
    s.cylinder((0, 0.12, 0.19), 0.115, 0.03, (0.55, 0.57, 0.6), rotation=rotate_x(90))
    s.cylinder((0, 0.12, 0.205), 0.085, 0.03, (0.25, 0.55, 0.9), rotation=rotate_x(90))
    return s
