"""Nature and buildings. Front is +z, up is +y; each function is (random generator, colour) -> Solid."""

from __future__ import annotations

import numpy as np

from toybox.primitives import Solid, rotate_x, rotate_y, rotate_z
from toybox.shapes.parts import BLACK, CREAM, GOLD, LEAF, SIDES, WHITE, WOOD, around, darker, lighter, on_dome

TERRACOTTA, SOIL, PANE, STONE = (0.76, 0.38, 0.22), (0.25, 0.16, 0.10), (0.35, 0.62, 0.90), (0.42, 0.40, 0.38)


def _roof(colour):
    """A roof that stands out from walls of this colour."""
    return (0.2, 0.32, 0.8) if colour[0] > colour[2] + 0.15 else (0.8, 0.16, 0.14)


def mushroom(rng, colour):
    s, height, turn, spots = Solid(), 0.4 * around(rng), rng.uniform(0, 6.3), 12
    s.ellipsoid((0, -0.4, 0), (0.25 * around(rng), 0.18, 0.25), CREAM)
    s.cone((0, -0.25, 0), 0.22, 0.22, 0.18 * around(rng), CREAM, blend=0.06)
    s.ellipsoid((0, 0.08, 0), (0.52, height, 0.52), colour)
    s.ellipsoid((0, 0.0, 0), (0.48, height * 0.83, 0.48), darker(CREAM, 0.08))
    for i in range(spots):
        d = on_dome(np.arccos(1 - 0.9 * i / (spots - 1)), turn + 2.4 * i)
        size = (0.105, 0.085, 0.07)[i % 3] * around(rng)
        s.ellipsoid((d[0] * 0.5, 0.08 + d[1] * height * 0.97, d[2] * 0.5), (size, size * 0.8, size), WHITE)
    return s


def snowman(rng, colour):
    s, head, waist = Solid(), 0.235 * around(rng, 0.05), 0.29 * around(rng, 0.06)
    s.ellipsoid((0, -0.36, 0), (0.38 * around(rng, 0.06), 0.3, 0.36), WHITE)
    s.ellipsoid((0, -0.03, 0), (waist, 0.24, 0.26), WHITE)
    s.sphere((0, 0.28, 0), head, WHITE)
    s.cone((0, 0.27, head + 0.08), 0.12, 0.06, 0.012, (0.95, 0.5, 0.1), rotation=rotate_x(90))
    for x in SIDES:
        s.ellipsoid((x * 0.09, 0.335, head * 0.88), (0.042, 0.05, 0.035), BLACK)
        s.ellipsoid((x * 0.055, 0.185, head * 0.86), (0.024, 0.022, 0.024), BLACK)
        s.ellipsoid((x * 0.115, 0.215, head * 0.8), (0.024, 0.022, 0.024), BLACK)
        s.cylinder((x * 0.36, 0.07, 0), 0.036, 0.17, WOOD, rotation=rotate_z(x * -58))
        s.cylinder((x * 0.46, 0.17, 0), 0.03, 0.07, WOOD, rotation=rotate_z(x * -5))
    for y in (-0.28, -0.13, 0.0):
        s.sphere((0, y, 0.35 if y < -0.2 else 0.245), 0.042, BLACK)
    s.cylinder((0, 0.43, 0), 0.25, 0.032, colour, rounding=0.03)
    s.cylinder((0, 0.54, 0), 0.175 * around(rng, 0.06), 0.12, colour, rounding=0.03)
    s.torus((0, 0.125, 0), 0.18, 0.065, colour)
    s.box((0.12, 0.0, 0.235), (0.058, 0.13, 0.03), colour, rotation=rotate_z(8) @ rotate_x(-6))
    return s


def house(rng, colour):
    s, wall, depth = Solid(), 0.27 * around(rng), 0.31 * around(rng)
    s.box((0, -0.2, 0), (0.34, wall, depth), CREAM, rounding=0.01)
    top = -0.2 + wall
    for x in SIDES:
        tilt = rotate_z(-x * 42)
        s.box((x * 0.195, top + 0.165, 0), (0.31, 0.05, depth + 0.07), colour, rotation=tilt, rounding=0.03)
    for z in (-depth + 0.02, depth - 0.02):
        s.box((0, top, z), (0.25, 0.25, 0.02), CREAM, rotation=rotate_z(45), rounding=0.01)
    s.box((0.2, top + 0.34, -0.1), (0.075, 0.15, 0.075), (0.6, 0.27, 0.2), rounding=0.015)
    s.box((0, -0.2 - wall + 0.19, depth), (0.105, 0.19, 0.03), WOOD, rounding=0.015)
    s.sphere((0.06, -0.2 - wall + 0.19, depth + 0.035), 0.026, GOLD)
    s.cylinder((0, top + 0.1, depth), 0.08, 0.03, PANE, rotation=rotate_x(90))
    for x in SIDES:
        s.box((x * 0.225, -0.16, depth), (0.085, 0.1, 0.015), WHITE, rounding=0.01)
        s.box((x * 0.225, -0.16, depth), (0.065, 0.08, 0.03), PANE, rounding=0.01)
        s.box((x * 0.34, -0.16, 0), (0.015, 0.1, 0.15), WHITE, rounding=0.01)
        s.box((x * 0.34, -0.16, 0), (0.03, 0.08, 0.13), PANE, rounding=0.01)
    return s


def tree(rng, colour):
    s, under = Solid(), darker(colour, 0.3)
    s.cone((0, -0.46, 0), 0.16, 0.14 * around(rng), 0.11, WOOD)
    for y, width, half in ((-0.15, 0.44, 0.21), (0.11, 0.345, 0.2), (0.35, 0.24, 0.18)):
        width *= around(rng, 0.06)
        s.cone((0, y, 0), half, width, 0.05, colour)
        s.torus((0, y - half, 0), width - 0.04, 0.05, colour)
        s.cylinder((0, y - half - 0.02, 0), width - 0.05, 0.02, under)
    s.sphere((0, 0.52, 0), 0.055, colour)
    return s


def cactus(rng, colour):
    s, girth, tall = Solid(), around(rng), 0.36 * around(rng, 0.08)
    s.cone((0, -0.43, 0), 0.13, 0.19, 0.25, TERRACOTTA)
    s.cylinder((0, -0.29, 0), 0.3, 0.05, TERRACOTTA, rounding=0.02)
    s.cylinder((0, -0.25, 0), 0.25, 0.02, SOIL)
    for i in range(6):
        d = rotate_y(60 * i) @ (0, 0, 0.085 * girth)
        s.cylinder((d[0], -0.25 + tall, d[2]), 0.095 * girth, tall, colour, rounding=0.095)
    top = -0.25 + 2 * tall
    for x, y in zip(SIDES, rng.permutation([0.0, 0.13]) - 0.02, strict=True):
        out = x * rotate_y(rng.uniform(20, 40)) @ (1, 0, 0)
        tilt = np.stack([(0, 1, 0), out, np.cross((0, 1, 0), out)], 1)
        s.cylinder(out * 0.22 + (0, y, 0), 0.085, 0.17, colour, rounding=0.085, rotation=tilt)
        s.cylinder(out * 0.33 + (0, y + 0.12, 0), 0.09, 0.2 * around(rng), colour, rounding=0.09, blend=0.04)
    for i in range(5):
        d = rotate_y(72 * i) @ (0, 0, 0.075)
        s.ellipsoid((d[0], top + 0.01, d[2]), (0.06, 0.045, 0.06), (0.97, 0.45, 0.65))
    s.sphere((0, top + 0.035, 0), 0.05, GOLD)
    return s


def flower(rng, colour):
    s, petals, tilt = Solid(), 9, rotate_x(-18)
    head, length, yellow = np.array((0, 0.2, 0.06)), 0.17 * around(rng, 0.08), (0.98, 0.78, 0.12)
    s.cone((0, -0.45, 0), 0.1, 0.13, 0.18 * around(rng, 0.06), TERRACOTTA)
    s.cylinder((0, -0.345, 0), 0.22, 0.04, TERRACOTTA, rounding=0.02)
    s.cylinder((0, -0.31, 0), 0.17, 0.02, SOIL)
    s.cylinder((0, -0.07, -0.02), 0.055, 0.28, LEAF, rotation=rotate_x(4))
    for x in SIDES:
        leaf = (0.18 * around(rng), 0.055, 0.1)
        s.ellipsoid((x * 0.17, -0.15, 0), leaf, LEAF, rotation=rotate_z(x * 35))
    s.ellipsoid(head - tilt @ (0, 0, 0.05), (0.14, 0.14, 0.075), LEAF, rotation=tilt)
    width = 0.105 * around(rng, 0.08)
    for i in range(petals):
        turn = tilt @ rotate_z(360 * i / petals)
        s.ellipsoid(head + turn @ (0, 0.23, 0.01), (width, length, 0.06), colour, rotation=turn @ rotate_x(10))
    s.ellipsoid(head + tilt @ (0, 0, 0.03), (0.155, 0.155, 0.085), yellow, rotation=tilt)
    for x in SIDES:
        s.ellipsoid(head + tilt @ (x * 0.055, 0.035, 0.1), (0.024, 0.034, 0.022), BLACK, rotation=tilt)
        s.ellipsoid(head + tilt @ (x * 0.045, -0.05, 0.1), (0.03, 0.017, 0.02), BLACK, tilt @ rotate_z(x * 30))
    s.ellipsoid(head + tilt @ (0, -0.062, 0.1), (0.032, 0.017, 0.02), BLACK, rotation=tilt)
    return s


def pumpkin(rng, colour):
    s, radii, reach = Solid(), np.array((0.19, 0.34 * around(rng, 0.08), 0.24)), 0.24 * around(rng, 0.06)
    turns = [rotate_y(40 * i) for i in range(9)]
    for turn in turns:
        s.ellipsoid(turn @ (0, 0, reach), radii, colour, rotation=turn)

    def skin(x, y, depth):  # the point of the front that far inside the pumpkin
        far = 0.0
        for turn in turns:
            origin, ray = (turn.T @ (x, y, 0) - (0, 0, reach)) / radii, turn.T @ (0, 0, 1) / radii
            half, square = origin @ ray, ray @ ray
            root = half * half - square * (origin @ origin - 1)
            far = max(far, (root**0.5 - half) / square if root > 0 else 0)
        return x, y, far - depth

    s.cone((0, radii[1] + 0.02, 0), 0.12, 0.11, 0.06, (0.3, 0.42, 0.14), rotation=rotate_z(rng.uniform(-14, 14)))
    face = BLACK if sum(colour) > 0.6 else GOLD
    for x in SIDES:
        s.cone(skin(x * 0.18, 0.1, 0.04), 0.1, 0.115, 0.01, face, rotation=rotate_x(-18))
    s.cone(skin(0, -0.01, 0.02), 0.045, 0.06, 0.01, face)
    for x in (-0.245, -0.17, -0.085, 0, 0.085, 0.17, 0.245):
        thick = 0.085 - 0.4 * x * x
        s.ellipsoid(skin(x, 1.5 * x * x - 0.18, 0.015), (0.075, thick, 0.045), face)
    for x, y in ((-0.1, -0.1), (0.1, -0.1), (0, -0.225)):
        s.box(skin(x, y, 0.0), (0.036, 0.04, 0.045), colour, rounding=0.01)
    return s


def castle(rng, colour):
    s, wall, tower, tall = Solid(), 0.18 * around(rng), 0.12 * around(rng, 0.08), 0.32 * around(rng, 0.08)
    roof, floor, top = _roof(colour), -0.5, 2 * wall - 0.5
    s.box((0, floor + wall, 0), (0.28, wall, 0.28), colour, rounding=0.01)
    for x in SIDES:
        for z in SIDES:
            s.cylinder((x * 0.29, floor + tall, z * 0.29), tower, tall, colour)
            s.cone((x * 0.29, floor + 2 * tall + 0.12, z * 0.29), 0.13, tower + 0.045, 0.015, roof)
        for z in (-0.11, 0.11):
            s.box((x * 0.26, top + 0.04, z), (0.045, 0.06, 0.05), colour, rounding=0.01)
        s.box((x * 0.11, top + 0.04, -0.26), (0.05, 0.06, 0.045), colour, rounding=0.01)
    s.cylinder((0, floor + tall + 0.1, -0.04), 0.15, tall + 0.1, colour)
    s.cone((0, floor + 2 * tall + 0.36, -0.04), 0.17, 0.2, 0.015, roof)
    s.box((0, floor + wall + 0.02, 0.3), (0.17, wall + 0.02, 0.08), colour, rounding=0.01)
    for x in (-0.125, 0, 0.125):
        s.box((x, top + 0.07, 0.335), (0.04, 0.05, 0.045), colour, rounding=0.01)
    s.box((0, floor + 0.09, 0.37), (0.12, 0.09, 0.03), WOOD, rounding=0.01)
    s.cylinder((0, floor + 0.18, 0.37), 0.12, 0.03, WOOD, rotation=rotate_x(90))
    s.ellipsoid((0, floor + 2 * tall + 0.07, 0.11), (0.045, 0.07, 0.03), BLACK)
    for x in SIDES:
        s.ellipsoid((x * 0.29, floor + 2 * tall - 0.15, 0.29 + tower), (0.04, 0.07, 0.03), BLACK)
    return s


def lighthouse(rng, colour):
    s, bands, foot, neck = Solid(), 5, 0.29 * around(rng, 0.08), 0.18 * around(rng, 0.08)
    s.ellipsoid((0, -0.52, 0), (0.44 * around(rng), 0.15, 0.4), STONE)
    s.ellipsoid((0.26, -0.5, 0.17), (0.17, 0.12, 0.15), darker(STONE, 0.15), rotation=rotate_y(30))
    s.ellipsoid((-0.27, -0.5, -0.13), (0.18, 0.13, 0.15), lighter(STONE, 0.15))
    half = 0.075 * around(rng, 0.06)
    for i in range(bands):
        low, high = (foot + (neck - foot) * t / bands for t in (i, i + 1))
        s.cone((0, -0.43 + half * (2 * i + 1), 0), half, low, high, WHITE if i % 2 else colour)
    top = -0.43 + 2 * half * bands
    s.cylinder((0, top + 0.02, 0), neck + 0.07, 0.03, darker(STONE, 0.3))
    s.cylinder((0, top + 0.13, 0), neck - 0.025, 0.095, (1.0, 0.88, 0.3))
    s.cone((0, top + 0.29, 0), 0.08, neck + 0.05, 0.03, colour)
    s.sphere((0, top + 0.385, 0), 0.045, colour)
    return s


def windmill(rng, colour):
    s, foot, top = Solid(), 0.33 * around(rng, 0.08), 0.22 * around(rng, 0.06)
    length, hub, turn = 0.2 * around(rng, 0.06), np.array((0, 0.2, 0.35)), rng.uniform(-14, 14)
    s.cone((0, -0.18, 0), 0.37, foot, top, colour)
    s.cylinder((0, -0.53, 0), foot + 0.05, 0.04, STONE)
    s.ellipsoid((0, 0.2, 0), (top + 0.04, 0.21, top + 0.05), _roof(colour))
    s.cylinder((0, 0.2, 0.25), 0.05, 0.12, WOOD, rotation=rotate_x(90))
    s.box((0, -0.37, foot - 0.06), (0.1, 0.15, 0.05), WOOD)
    s.cylinder((0, -0.22, foot - 0.06), 0.1, 0.05, WOOD, rotation=rotate_x(90))
    for i in range(4):
        arm = rotate_z(45 + turn + 90 * i)
        s.box(hub + arm @ (0, 0.22, 0), (0.032, 0.2, 0.03), WOOD, rotation=arm)
        s.box(hub + arm @ (0.05, 0.13 + length, 0), (0.1, length, 0.028), WOOD, rotation=arm)
        for t in (0.48, 1.5):
            s.box(hub + arm @ (0.05, 0.13 + length * t, 0), (0.07, length * 0.4, 0.04), CREAM, rotation=arm)
    s.sphere(hub + (0, 0, 0.03), 0.07, GOLD)
    return s
