"""Things to eat. Front is +z, up is +y; each function is (random generator, colour) -> Solid."""

from __future__ import annotations

import numpy as np

from toybox.primitives import Solid, rotate_x, rotate_y, rotate_z
from toybox.shapes.parts import LEAF, SKIN, WHITE, WOOD, around, darker, on_dome

DOUGH, WAFER, CHERRY = (0.86, 0.62, 0.33), (0.90, 0.66, 0.34), (0.85, 0.08, 0.14)
SPRINKLES = ((0.99, 0.97, 0.92), (0.98, 0.83, 0.15), (0.20, 0.45, 0.92), (0.25, 0.75, 0.35), (0.90, 0.15, 0.20))


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


def donut(rng, colour):
    s, ring, fat, turn = Solid(), 0.31 * around(rng, 0.06), 0.18 * around(rng, 0.06), rotate_x(rng.uniform(15, 21))
    s.torus(turn @ (0, -0.04, 0), ring, fat, DOUGH, rotation=turn)
    s.torus(turn @ (0, 0.04, 0), ring, fat * 1.04, colour, rotation=turn)
    for i in range(7):
        round_ = turn @ rotate_y(i * 360 / 7 + rng.uniform(-8, 8))
        s.ellipsoid(round_ @ (ring + fat * 0.8, -0.02, 0), (0.055, 0.1, 0.1), colour, rotation=round_)
    for i in range(16):
        polar, round_ = rng.uniform(-50, 62), turn @ rotate_y(i * 137.5)
        at = round_ @ (ring + fat * np.sin(np.radians(polar)), 0.05 + fat * np.cos(np.radians(polar)), 0)
        lie = round_ @ rotate_z(-polar) @ rotate_y(rng.uniform(0, 180))
        s.ellipsoid(at, (0.06, 0.028, 0.028), SPRINKLES[i % 5], rotation=lie)
    return s


def ice_cream(rng, colour):
    s, ball, length = Solid(), 0.3 * around(rng, 0.07), 0.29 * around(rng)
    top, radius = length - 0.25, 0.26
    s.cone((0, -0.25, 0), length, 0.05, radius, WAFER)
    s.sphere((0, -0.24 - length, 0), 0.06, WAFER)
    for share in (0.3, 0.54, 0.78):
        at = (0, top - 2 * length * (1 - share), 0)
        s.torus(at, 0.05 + (radius - 0.05) * share, 0.018, darker(WAFER, 0.3))
    s.torus((0, top, 0), radius - 0.02, 0.05, WAFER)
    y = top + 0.18
    s.sphere((0, y, 0), ball, colour)
    for i in range(8):
        s.sphere(rotate_y(i * 45) @ (ball * 0.86, top + 0.07, 0), 0.09, colour, blend=0.05)
    if rng.random() < 0.5:
        y, ball = y + ball * 1.15, ball * 0.85
        s.sphere((0, y, 0), ball, colour)
    for i in range(9):
        d, lie = on_dome(0.25 + 0.12 * i, i * 2.4), rotate_y(rng.uniform(0, 180)) @ rotate_z(rng.uniform(-40, 40))
        s.ellipsoid(d * ball + (0, y, 0), (0.06, 0.028, 0.028), SPRINKLES[i % 5], rotation=lie)
    return s


def cake(rng, colour):
    s, wide, narrow = Solid(), 0.46 * around(rng, 0.06), 0.3 * around(rng, 0.06)
    low, high = 0.16 * around(rng), 0.13 * around(rng)
    cream = WHITE if min(colour) < 0.8 else SKIN
    floor, step = -0.4, -0.4 + 2 * low
    top = step + 2 * high
    s.cylinder((0, floor - 0.02, 0), wide * 1.16, 0.035, cream, rounding=0.03)
    s.cylinder((0, floor + low, 0), wide, low, colour, rounding=0.05)
    s.cylinder((0, step + high - 0.02, 0), narrow, high + 0.02, colour, rounding=0.05)
    for i in range(8):
        s.sphere(rotate_y(i * 45 + 22) @ (wide * 0.87, step + 0.01, 0), 0.075, cream)
    s.torus((0, step + 0.02, 0), narrow, 0.04, cream)
    s.torus((0, floor + 0.03, 0), wide, 0.045, cream)
    for i in range(5):
        x, _, z = rotate_y(i * 72 + 18) @ (narrow * 0.62, 0, 0)
        s.cylinder((x, top + 0.09, z), 0.035, 0.11, SPRINKLES[(1, 2, 4, 3, 2)[i]])
        s.ellipsoid((x, top + 0.24, z), (0.036, 0.06, 0.036), (1.0, 0.66, 0.1))
    return s


def apple(rng, colour):
    s, width, taper = Solid(), around(rng, 0.05), 0.12 * around(rng, 0.12)
    s.torus((0, 0.06, 0), 0.21 * width, 0.24, colour)
    s.torus((0, -0.2, 0), taper * width, 0.2, colour, blend=0.16)
    lean = rotate_z(rng.uniform(-16, -6))
    s.cylinder(lean @ (0, 0.3, 0), 0.045, 0.16, WOOD, rounding=0.03, rotation=lean)
    s.ellipsoid(
        (0.19, 0.42, 0.03), (0.18, 0.055, 0.11 * around(rng)), darker(LEAF, 0.3), rotation=rotate_y(-12) @ rotate_z(24)
    )
    return s


def carrot(rng, colour):
    s, width, length = Solid(), 0.26 * around(rng, 0.08), 0.32 * around(rng, 0.07)
    top = length - 0.2
    s.cone((0, -0.2, 0), length, 0.07, width * 0.96, colour)
    s.sphere((0, -0.19 - length, 0), 0.075, colour)
    s.ellipsoid((0, top, 0), (width, 0.12, width), colour, blend=0.08)
    for i, share in enumerate((0.2, 0.42, 0.6, 0.8)):
        radius, turn = 0.07 + (width * 0.96 - 0.07) * share, rotate_y(i * 145)
        at = turn @ (0.022, top - 2 * length * (1 - share), 0)
        s.torus(at, radius - 0.012, 0.018, darker(colour, 0.3))
    s.ellipsoid((0, top + 0.22, 0), (0.085, 0.22 * around(rng), 0.085), LEAF)
    for i in range(6):
        turn = rotate_y(i * 60 + rng.uniform(-8, 8)) @ rotate_z(-32 - 10 * (i % 2))
        s.ellipsoid(turn @ (0, 0.21, 0) + (0, top + 0.04, 0), (0.07, 0.2, 0.09), LEAF, rotation=turn)
    return s


def pineapple(rng, colour):
    s, width, height = Solid(), 0.28 * around(rng, 0.07), 0.34 * around(rng, 0.06)
    s.ellipsoid((0, -0.18, 0), (width, height, width), darker(colour, 0.3))
    for i in range(22):
        up = 0.95 - 1.85 * i / 21
        polar, azimuth = np.arccos(up), i * 2.4
        d, turn = on_dome(polar, azimuth), rotate_y(-np.degrees(azimuth)) @ rotate_z(-np.degrees(polar))
        at = (d[0] * width * 0.95, -0.18 + d[1] * height * 0.95, d[2] * width * 0.95)
        s.ellipsoid(at, (0.105, 0.06, 0.095), colour, rotation=turn)
    top = height - 0.18
    s.ellipsoid((0, top + 0.21, 0), (0.075, 0.2 * around(rng), 0.075), LEAF)
    for i in range(6):
        turn = rotate_y(i * 60 + 10) @ rotate_z(-30 - 22 * (i % 2))
        s.ellipsoid(turn @ (0, 0.18, 0) + (0, top - 0.02, 0), (0.055, 0.2, 0.1), LEAF, rotation=turn)
    return s


def strawberry(rng, colour):
    s, width, depth = Solid(), 0.4 * around(rng, 0.06), 0.42 * around(rng, 0.07)
    seed = darker(colour, 0.55) if np.dot(colour, (0.3, 0.59, 0.11)) > 0.6 else (0.99, 0.9, 0.5)
    s.ellipsoid((0, 0.1, 0), (width, 0.27, width), colour)
    s.ellipsoid((0, -0.04, 0), (width * 0.74, depth, width * 0.74), colour, blend=0.2)
    for i in range(18):
        y = 0.17 - (0.18 + depth) * i / 18
        above = width * np.sqrt(max(1 - ((y - 0.1) / 0.27) ** 2, 0))
        below = 0.74 * width * np.sqrt(1 - ((y + 0.04) / depth) ** 2)
        swell = max(1 - abs(above - below) / 0.2, 0) ** 2 * 0.05
        at, turn = (max(above, below) + swell, y, 0), rotate_y(i * 137.5)
        s.ellipsoid(turn @ at, (0.028, 0.044, 0.03), seed, rotation=turn)
    for i in range(6):
        turn = rotate_y(i * 60 + rng.uniform(-6, 6)) @ rotate_z(-108)
        s.ellipsoid(turn @ (0, 0.2, 0) + (0, 0.38, 0), (0.045, 0.19, 0.11), LEAF, rotation=turn)
    s.cylinder((0, 0.42, 0), 0.05, 0.1, darker(LEAF, 0.15), rounding=0.03)
    return s


def cupcake(rng, colour):
    s, width, cup = Solid(), 0.36 * around(rng, 0.06), 0.17 * around(rng)
    lean = np.degrees(np.arctan2(width * 0.27, 2 * cup))
    s.cone((0, -0.3, 0), cup, width * 0.68, width * 0.95, (0.62, 0.38, 0.22))
    for i in range(12):
        turn = rotate_y(i * 30)
        at, slant = turn @ (width * 0.815, -0.3, 0), turn @ rotate_z(-lean)
        s.cylinder(at, 0.036, cup, (0.98, 0.9, 0.72), rounding=0.03, rotation=slant)
    y, radius, tilt = cup - 0.26, width, rotate_z(7)
    for i in range(4):
        s.cylinder((0, y, 0), radius * 1.14, 0.1, colour, rounding=0.095, rotation=tilt)
        for k in range(3 if i < 3 else 0):
            turn = rotate_y(k * 120 + i * 47 + rng.uniform(-15, 15))
            at = tilt @ turn @ (radius * 1.14 - 0.02, 0.045, 0) + (0, y, 0)
            s.ellipsoid(at, (0.03, 0.03, 0.06), SPRINKLES[(k + 2 * i) % 4], rotation=turn @ rotate_x(30))
        y, radius = y + 0.125, radius * (0.78 - 0.06 * i)
    s.sphere((0, y, 0), 0.11 * around(rng), CHERRY)
    return s
