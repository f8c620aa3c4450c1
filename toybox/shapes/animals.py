"""Animals on four legs and bears. Front is +z, up is +y; each function is (random generator, colour) -> Solid."""

from __future__ import annotations

import numpy as np

from toybox.primitives import Solid, rotate_x, rotate_y, rotate_z
from toybox.shapes.parts import BLACK, CREAM, SIDES, SKIN, WHITE, around, darker, lighter

PINK = (0.95, 0.5, 0.55)


def _eyes(s, x, y, z, r):
    """Two white balls that look ahead."""
    for side in SIDES:
        s.ellipsoid((side * x, y, z), (r, 1.15 * r, 0.75 * r), WHITE)
        s.ellipsoid((side * x * 0.96, y, z + 0.5 * r), (0.58 * r, 0.7 * r, 0.4 * r), BLACK)


def _rope(s, points, radius, colour):
    """Round sticks from point to point."""
    for a, b in zip(points, points[1:], strict=False):
        a, b = np.asarray(a), np.asarray(b)
        length = np.linalg.norm(b - a)
        along = (b - a) / length
        beside = np.cross(along, (0.6, 0, 0.8) if abs(along[1]) > 0.9 else (0, 1, 0))
        beside /= np.linalg.norm(beside)
        turn = np.stack([beside, along, np.cross(beside, along)], -1)
        s.cylinder((a + b) / 2, radius, length / 2 + radius, colour, rounding=radius, rotation=turn)


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
    s.wears(head=((0, 0.27, 0.12), 0.16), neck=((0, 0.0, 0.14), 0.285, 25))
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
    s.wears(head=((0, 0.43, 0.02), 0.17), neck=((0, 0.02, 0.04), 0.215, -8))
    return s


def cat(rng, colour):
    s, light, ear, r = Solid(), lighter(colour, 0.6), around(rng), 0.27 * around(rng, 0.07)
    s.ellipsoid((0, -0.2, -0.08), (0.23 * around(rng), 0.29, 0.25), colour)
    s.ellipsoid((0, -0.17, 0.05), (0.16, 0.22, 0.17), light)
    s.ellipsoid((0, 0.2, 0.08), (r, 0.225, 0.22), colour)
    for x in SIDES:
        s.cone((x * 0.63 * r, 0.43, 0.06), 0.13 * ear, 0.115, 0.015, colour, rotation=rotate_z(-x * 14))
        s.cone((x * 0.63 * r, 0.42, 0.095), 0.1 * ear, 0.08, 0.01, PINK, rotation=rotate_z(-x * 14))
        s.ellipsoid((x * 0.06, 0.11, 0.27), (0.08, 0.065, 0.065), light)
        s.ellipsoid((x * 0.19, -0.38, -0.02), (0.13, 0.15, 0.2), colour)
        s.ellipsoid((x * 0.1, -0.28, 0.15), (0.07, 0.2, 0.075), colour)
        s.ellipsoid((x * 0.1, -0.47, 0.21), (0.085, 0.06, 0.11), light)
    s.ellipsoid((0, 0.155, 0.32), (0.04, 0.03, 0.03), PINK)
    _eyes(s, 0.12, 0.235, 0.25, 0.065)
    tail = 0.3 * around(rng)
    bends = (0.05, -0.43, -0.27), (0.24, -0.44, -0.33), (0.36, -0.37, -0.34), (0.42, -0.25, -0.34)
    _rope(s, (*bends, (0.43, -0.25 + tail / 2, -0.34), (0.4, -0.25 + tail, -0.34)), 0.06, colour)
    s.ellipsoid((0.37, -0.18 + tail, -0.34), (0.072, 0.14, 0.072), light, rotation=rotate_z(20))
    s.wears(head=((0, 0.4, 0.05), 0.14), neck=((0, 0.0, 0.0), 0.21, 3))
    return s


def dog(rng, colour):
    s, light, dark, r = Solid(), lighter(colour, 0.6), darker(colour, 0.5), 0.24 * around(rng, 0.07)
    height, ear = -0.1 * around(rng), 0.2 * around(rng)
    s.ellipsoid((0, height, -0.1), (0.24 * around(rng), 0.22, 0.33), colour)
    for x in SIDES:
        for z in (0.1, -0.3):
            s.cylinder((x * 0.15, -0.31, z), 0.09, 0.18, colour, rounding=0.05)
            s.ellipsoid((x * 0.15, -0.46, z + 0.04), (0.1, 0.065, 0.125), light)
    s.ellipsoid((0, 0.2, 0.2), (r, 0.23, 0.22), colour, blend=0.05)
    s.ellipsoid((0, 0.11, 0.4), (0.14, 0.1, 0.16), light)
    s.ellipsoid((0, 0.17, 0.53), (0.07, 0.05, 0.045), BLACK)
    s.ellipsoid((0, 0.0, 0.46), (0.065, 0.1, 0.04), PINK, rotation=rotate_x(-15))
    for x in SIDES:
        s.ellipsoid((x * (r + 0.035), 0.34 - ear, 0.17), (0.08, ear, 0.13), dark, rotation=rotate_z(x * 14))
    _eyes(s, 0.105, 0.28, 0.365, 0.06)
    _rope(s, ((0, height + 0.05, -0.38), (0, height + 0.15, -0.46), (0, height + 0.33, -0.5)), 0.06, colour)
    s.sphere((0, height + 0.36, -0.5), 0.07, light)
    s.wears(head=((0, 0.4, 0.17), 0.16), neck=((0, 0.02, 0.12), 0.2, 30))
    return s


def rabbit(rng, colour):
    s, light, r, ear = Solid(), lighter(colour, 0.6), 0.24 * around(rng, 0.07), 0.25 * around(rng)
    s.ellipsoid((0, -0.24, -0.06), (0.25 * around(rng), 0.25, 0.27), colour)
    s.ellipsoid((0, -0.22, 0.08), (0.16, 0.18, 0.16), light)
    s.ellipsoid((0, 0.09, 0.08), (r, 0.21, 0.21), colour)
    for x in SIDES:
        turn = rotate_z(-x * 36) @ rotate_x(-14)  # apart and back, so that a hat shows between them
        middle = turn @ (0, ear, 0) + (x * 0.13, 0.19, -0.02)
        s.ellipsoid(middle, (0.095, ear, 0.07), colour, rotation=turn)
        s.ellipsoid(middle + turn @ (0, 0, 0.04), (0.058, ear * 0.75, 0.048), PINK, rotation=turn)
        s.ellipsoid((x * 0.055, 0.01, 0.25), (0.075, 0.06, 0.06), light)
        s.ellipsoid((x * 0.21, -0.36, -0.04), (0.12, 0.16, 0.2), colour)
        s.ellipsoid((x * 0.17, -0.47, 0.16), (0.095, 0.065, 0.2), colour)
        s.ellipsoid((x * 0.09, -0.2, 0.19), (0.065, 0.11, 0.075), colour, rotation=rotate_x(-30))
    s.box((0, -0.055, 0.285), (0.035, 0.04, 0.02), WHITE, rounding=0.01)
    s.ellipsoid((0, 0.055, 0.3), (0.042, 0.03, 0.03), PINK)
    _eyes(s, 0.12, 0.145, 0.23, 0.065)
    s.sphere((0, -0.34, -0.36), 0.13 * around(rng), WHITE)
    s.wears(head=((0, 0.28, 0.08), 0.14), neck=((0, -0.075, -0.02), 0.205, 0))
    return s


def pig(rng, colour):
    s, light, dark = Solid(), lighter(colour, 0.4), darker(colour, 0.25)
    width, length, r = 0.29 * around(rng), 0.37 * around(rng, 0.07), 0.25 * around(rng, 0.07)
    s.ellipsoid((0, -0.08, -0.08), (width, 0.27, length), colour)
    for x in SIDES:
        for z in (0.12, -0.27):
            s.cylinder((x * 0.16, -0.36, z), 0.09, 0.13, colour, rounding=0.03)
            s.cylinder((x * 0.16, -0.46, z), 0.093, 0.04, dark, rounding=0.02)
    s.ellipsoid((0, 0.06, 0.24), (r, 0.23, 0.21), colour, blend=0.05)
    s.cylinder((0, 0.0, 0.44), 0.125, 0.075, light, rounding=0.03, rotation=rotate_x(90))
    for x in SIDES:
        s.ellipsoid((x * 0.048, 0.005, 0.515), (0.024, 0.042, 0.02), BLACK)
        s.cone((x * 0.165, 0.28, 0.25), 0.11, 0.105, 0.015, dark, rotation=rotate_x(35) @ rotate_z(-x * 22))
    _eyes(s, 0.115, 0.145, 0.39, 0.058)
    s.torus((0, 0.0, -0.12 - length), 0.075, 0.035, dark, rotation=rotate_y(45) @ rotate_x(90))
    _rope(s, ((0.05, 0.05, -0.16 - length), (0.1, 0.13, -0.17 - length)), 0.032, dark)
    s.wears(head=((0, 0.27, 0.2), 0.15), neck=((0, -0.02, 0.12), 0.87 * width, 52))
    return s


def elephant(rng, colour):
    s, light, dark, ear = Solid(), lighter(colour, 0.4), darker(colour, 0.25), 0.24 * around(rng)
    s.ellipsoid((0, -0.06, -0.14), (0.29 * around(rng), 0.27, 0.33), colour)
    for x in SIDES:
        for z in (0.04, -0.32):
            s.cylinder((x * 0.16, -0.34, z), 0.11, 0.18, colour, rounding=0.03)
    s.ellipsoid((0, 0.16, 0.17), (0.24, 0.24, 0.22), colour, blend=0.05)
    trunk = 0.085 * around(rng)
    for y, z, r in ((0.08, 0.36, 1.3), (-0.05, 0.43, 1.15), (-0.18, 0.46, 1), (-0.29, 0.5, 0.9), (-0.33, 0.58, 0.85)):
        s.sphere((0, y, z), trunk * r, colour, blend=0.05)
    for x in SIDES:
        s.ellipsoid((x * 0.36, 0.19, 0.1), (ear, ear * 1.15, 0.065), colour, rotation=rotate_y(x * 20))
        s.ellipsoid((x * 0.37, 0.18, 0.14), (ear * 0.7, ear * 0.85, 0.05), light, rotation=rotate_y(x * 20))
        s.ellipsoid((x * 0.14, -0.06, 0.38), (0.04, 0.045, 0.12), WHITE, rotation=rotate_x(20))
    _eyes(s, 0.115, 0.23, 0.335, 0.058)
    _rope(s, ((0, 0.03, -0.44), (0, -0.16, -0.52)), 0.035, colour)
    s.sphere((0, -0.21, -0.53), 0.06, dark)
    s.wears(head=((0, 0.37, 0.15), 0.17), neck=((0, 0.04, 0.1), 0.27, 45))
    return s


def sheep(rng, colour):
    face = (0.2, 0.17, 0.17) if max(colour) > 0.25 else CREAM
    s, wool, r = Solid(), 0.165 * around(rng), around(rng)
    s.ellipsoid((0, -0.03, -0.1), (0.25 * r, 0.22, 0.32), colour)
    for z in (-0.33, 0.14):
        for x, y in ((0.1, 0.1), (0.17, -0.1)):
            for side in SIDES:
                s.sphere((side * x * r, y, z), wool, colour)
    s.sphere((0, 0.16, -0.1), wool, colour)
    for side in SIDES:
        s.sphere((side * 0.2 * r, 0.06, -0.1), wool, colour)
        s.sphere((side * 0.18 * r, -0.13, -0.1), wool, colour)
    s.sphere((0, -0.02, -0.46), 0.1, colour)
    for x in SIDES:
        for z in (0.08, -0.27):
            s.cylinder((x * 0.14, -0.34, z), 0.075, 0.15, face, rounding=0.02)
        s.ellipsoid((x * 0.2, 0.24, 0.32), (0.12, 0.065, 0.06), face, rotation=rotate_z(-x * 20))
    s.ellipsoid((0, 0.2, 0.36), (0.15, 0.19, 0.16), face, rotation=rotate_x(-20))
    _eyes(s, 0.082, 0.24, 0.47, 0.055)
    for x, y, z in ((-0.09, 0.33, 0.26), (0.09, 0.33, 0.26), (0, 0.35, 0.34)):
        s.sphere((x, y, z), 0.11 * around(rng), colour)
    s.wears(head=((0, 0.42, 0.29), 0.15), neck=((0, 0.12, 0.27), 0.19, 40))
    return s


def mouse(rng, colour):
    s, light, ear = Solid(), lighter(colour, 0.6), 0.2 * around(rng)
    s.ellipsoid((0, -0.22, -0.05), (0.24 * around(rng), 0.26, 0.25), colour)
    s.ellipsoid((0, -0.22, 0.07), (0.17, 0.2, 0.17), light)
    s.ellipsoid((0, 0.12, 0.06), (0.21 * around(rng, 0.07), 0.19, 0.2), colour)
    s.cone((0, 0.07, 0.28), 0.12, 0.14, 0.04, colour, rotation=rotate_x(90))
    s.sphere((0, 0.07, 0.41), 0.055, PINK)
    for x in SIDES:
        s.ellipsoid((x * 0.25, 0.32, 0.0), (ear, ear, 0.06), colour, rotation=rotate_y(x * 15))
        s.ellipsoid((x * 0.25, 0.32, 0.04), (ear * 0.75, ear * 0.75, 0.045), SKIN, rotation=rotate_y(x * 15))
        s.ellipsoid((x * 0.14, -0.46, 0.12), (0.09, 0.06, 0.16), SKIN)
        s.ellipsoid((x * 0.15, -0.13, 0.16), (0.06, 0.12, 0.06), colour, rotation=rotate_x(-50))
    _eyes(s, 0.1, 0.18, 0.22, 0.06)
    bends = (
        (0, -0.42, -0.25),
        (-0.19, -0.44, -0.35),
        (-0.36, -0.4, -0.34),
        (-0.45, -0.28, -0.3),
        (-0.46, -0.12, -0.28),
        (-0.4, 0.02, -0.26),
    )
    _rope(s, bends, 0.045, SKIN)
    s.wears(head=((0, 0.29, 0.05), 0.15), neck=((0, -0.045, -0.01), 0.195, 0))
    return s
