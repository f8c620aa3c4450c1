"""Things of the house. Front is +z, up is +y; each function is (random generator, colour) -> Solid."""

from __future__ import annotations

from toybox.primitives import Solid
from toybox.shapes.parts import around, lighter


def chair(rng, colour):
    s, leg, back = Solid(), 0.2 * around(rng), 0.3 * around(rng)
    s.box((0, -0.05, 0), (0.32, 0.06, 0.32), colour, rounding=0.03)
    for x in (-0.25, 0.25):
        for z in (-0.25, 0.25):
            s.cylinder((x, -0.08 - leg, z), 0.06, leg, colour, rounding=0.02)
    s.box((0, -0.05 + back, -0.26), (0.32, back, 0.06), colour, rounding=0.04)
    s.box((0, 0.02, 0.03), (0.25, 0.04, 0.24), lighter(colour, 0.35), rounding=0.035)
    return s
