"""Things to eat. Front is +z, up is +y; each function is (random generator, colour) -> Solid."""

from __future__ import annotations

from toybox.primitives import Solid, rotate_y
from toybox.shapes.parts import around, on_dome


def hamburger(rng, colour):
    s, dome = Solid(), 0.3 * around(rng)
    s.ellipsoid((0, 0.1, 0), (0.48, dome, 0.48), colour)
    s.cylinder((0, 0.05, 0), 0.52, 0.045, (0.35, 0.72, 0.2), rounding=0.04)
    s.cylinder((0, -0.03, 0), 0.49, 0.035, (0.9, 0.18, 0.13), rounding=0.03)
    s.box((0, -0.075, 0), (0.43, 0.018, 0.43), (0.99, 0.8, 0.15), rotation=rotate_y(rng.uniform(0, 90)))
    s.cylinder((0, -0.15, 0), 0.49, 0.065, (0.36, 0.19, 0.1), rounding=0.05)
    s.cylinder((0, -0.29, 0), 0.47, 0.1, colour, rounding=0.07)
    for i in range(14):
        d = on_dome(0.15 + 0.07 * i, i * 2.4)
        s.ellipsoid((d[0] * 0.48, 0.1 + d[1] * dome, d[2] * 0.48), (0.034, 0.026, 0.034), (0.99, 0.94, 0.78))
    return s
