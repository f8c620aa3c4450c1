"""Animals on four legs and bears. Front is +z, up is +y; each function is (random generator, colour) -> Solid."""

from __future__ import annotations

from toybox.primitives import Solid, rotate_z
from toybox.shapes.parts import BLACK, SIDES, WHITE, around, lighter


def frog(rng, colour):
    s, width = Solid(), around(rng)
    belly = lighter(colour, 0.55)
    s.ellipsoid((0, -0.15, -0.02), (0.38 * width, 0.28 * around(rng), 0.42), colour)
    s.ellipsoid((0, -0.18, 0.12), (0.28 * width, 0.22, 0.33), belly)
    s.ellipsoid((0, 0.08, 0.24), (0.33 * around(rng), 0.2, 0.25), colour, blend=0.08)
    eye = 0.125 * around(rng)
    for x in SIDES:
        s.sphere((x * 0.2, 0.27, 0.24), eye, colour)
        s.ellipsoid((x * 0.205, 0.285, 0.315), (eye * 0.76, eye * 0.76, eye * 0.6), WHITE)
        s.ellipsoid((x * 0.21, 0.29, 0.375), (eye * 0.42, eye * 0.46, eye * 0.3), BLACK)
        s.ellipsoid((x * 0.40, -0.23, -0.15), (0.17, 0.19, 0.29), colour, blend=0.04)
        s.ellipsoid((x * 0.45, -0.41, 0.12), (0.12, 0.055, 0.21), colour)
        s.ellipsoid((x * 0.27, -0.31, 0.30), (0.085, 0.17, 0.09), colour)
        s.ellipsoid((x * 0.29, -0.42, 0.40), (0.11, 0.05, 0.13), colour)
    s.ellipsoid((0, 0.03, 0.43), (0.19, 0.016, 0.07), (0.35, 0.08, 0.08))
    return s


def bear(rng, colour):
    s, light, ear = Solid(), lighter(colour, 0.5), 0.11 * around(rng)
    s.ellipsoid((0, -0.22, 0), (0.3 * around(rng), 0.3, 0.26), colour)
    s.ellipsoid((0, 0.22, 0.03), (0.26 * around(rng), 0.24, 0.24), colour)
    s.ellipsoid((0, -0.22, 0.1), (0.2, 0.21, 0.19), light)
    s.ellipsoid((0, 0.16, 0.23), (0.12, 0.095, 0.09), light)
    s.ellipsoid((0, 0.2, 0.315), (0.05, 0.036, 0.03), BLACK)
    for x in SIDES:
        s.ellipsoid((x * 0.2, 0.42, 0.0), (ear, ear, 0.075), colour)
        s.ellipsoid((x * 0.2, 0.42, 0.05), (ear * 0.6, ear * 0.6, 0.045), light)
        s.ellipsoid((x * 0.105, 0.285, 0.235), (0.04, 0.045, 0.035), BLACK)
        s.ellipsoid((x * 0.33, -0.12, 0.06), (0.11, 0.2, 0.11), colour, rotation=rotate_z(x * 34))
        s.ellipsoid((x * 0.2, -0.47, 0.14), (0.13, 0.12, 0.22), colour)
        s.ellipsoid((x * 0.2, -0.47, 0.325), (0.085, 0.085, 0.05), light)
    return s
