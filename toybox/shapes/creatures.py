"""Birds, reptiles, insects and sea creatures. Front is +z; each function is (random generator, colour) -> Solid."""

from __future__ import annotations

import numpy as np

from toybox.primitives import Solid, rotate_x, rotate_y, rotate_z
from toybox.shapes.parts import BEAK, BLACK, SIDES, WHITE, around, darker, lighter

MOUTH, CHEEK, SOFT = (0.35, 0.08, 0.08), (0.97, 0.50, 0.52), (0.96, 0.84, 0.62)
WATER, WING = (0.50, 0.78, 0.98), (0.86, 0.93, 0.99)


def _eyes(s, place, radius, aside=0.0):
    """A white ball with a black pupil on each side, looking `aside` degrees outwards."""
    for x in SIDES:
        turn, centre = rotate_y(x * aside), np.multiply(place, (x, 1, 1))
        s.sphere(centre, radius, WHITE)
        pupil = (radius * 0.56, radius * 0.62, radius * 0.45)
        s.ellipsoid(centre + turn @ (0, 0, 0.62 * radius), pupil, BLACK, rotation=turn)


def _accent(colour, amount=0.45):
    """A shade that stands out from the colour: darker, or lighter where it is almost black."""
    return darker(colour, amount) if max(colour) > 0.3 else lighter(colour, amount)


def duck(rng, colour):
    s, head = Solid(), 0.21 * around(rng)
    s.ellipsoid((0, -0.2, -0.05), (0.31 * around(rng), 0.25, 0.42), colour)
    s.sphere((0, 0.2, 0.2), head, colour, blend=0.1)
    s.ellipsoid((0, -0.08, -0.42), (0.13, 0.1, 0.17), colour, rotation=rotate_x(30), blend=0.08)
    s.ellipsoid((0, 0.15, 0.43), (0.12, 0.05, 0.14), BEAK)
    _eyes(s, (0.1, 0.265, 0.335), 0.062, 20)
    for x in SIDES:
        s.ellipsoid((x * 0.28, -0.16, -0.1), (0.08, 0.16, 0.27), darker(colour, 0.15))
    return s.wears(head=((0, 0.2 + 0.8 * head, 0.19), 0.68 * head), neck=((0, 0.05, 0.15), 0.19, 6))


def penguin(rng, colour):
    s, width, head = Solid(), 0.3 * around(rng), 0.21 * around(rng, 0.06)
    s.ellipsoid((0, -0.1, 0), (width, 0.42, 0.28), colour)
    s.ellipsoid((0, -0.14, 0.07), (width * 0.78, 0.36, 0.25), WHITE)
    s.sphere((0, 0.33, 0.02), head, colour, blend=0.06)
    s.cone((0, 0.3, 0.27), 0.09, 0.07, 0.01, BEAK, rotation=rotate_x(90))
    for x in SIDES:
        s.ellipsoid((x * 0.085, 0.36, 0.165), (0.07, 0.075, 0.06), WHITE)
        s.ellipsoid((x * 0.085, 0.365, 0.215), (0.034, 0.04, 0.025), BLACK)
        s.ellipsoid((x * (width + 0.03), -0.08, 0.0), (0.065, 0.25, 0.13), colour, rotation=rotate_z(x * 18))
        s.ellipsoid((x * 0.14, -0.5, 0.12), (0.12, 0.05, 0.18), BEAK)
    s.ellipsoid((0, -0.42, -0.26), (0.1, 0.06, 0.1), colour)
    return s.wears(head=((0, 0.33 + 0.8 * head, 0.02), 0.68 * head), neck=((0, 0.17, 0.03), 0.8 * width, 6))


def dinosaur(rng, colour):
    s, width, back = Solid(), around(rng), _accent(colour)
    s.ellipsoid((0, -0.13, -0.02), (0.25 * width, 0.3, 0.25), colour)
    s.ellipsoid((0, -0.32, -0.28), (0.16, 0.15, 0.26), colour, rotation=rotate_x(-8), blend=0.08)
    tail = 0.22 * around(rng)
    s.ellipsoid((0, -0.31, -0.54), (0.09, 0.085, tail), colour, rotation=rotate_x(22), blend=0.06)
    s.ellipsoid((0, 0.28, 0.08), (0.21 * around(rng), 0.2, 0.22), colour, blend=0.08)
    s.ellipsoid((0, 0.21, 0.28), (0.17, 0.115, 0.17 * around(rng)), colour, blend=0.06)
    s.ellipsoid((0, -0.15, 0.09), (0.18 * width, 0.23, 0.185), lighter(colour, 0.6))
    s.ellipsoid((0, 0.175, 0.37), (0.13, 0.022, 0.09), MOUTH)
    _eyes(s, (0.125, 0.37, 0.2), 0.09, 12)
    for x in SIDES:
        s.sphere((x * 0.06, 0.275, 0.425), 0.022, BLACK)
        s.ellipsoid((x * 0.21, -0.33, 0), (0.12, 0.19, 0.17), colour, blend=0.03)
        s.ellipsoid((x * 0.21, -0.47, 0.1), (0.115, 0.065, 0.18), colour)
        s.ellipsoid((x * 0.22, 0.0, 0.19), (0.06, 0.06, 0.13), colour, rotation=rotate_x(15))
    for y, z, lean in ((0.46, -0.08, 25), (0.3, -0.19, 65), (0.1, -0.24, 80), (-0.1, -0.3, 60), (-0.19, -0.45, 20)):
        s.cone((0, y, z), 0.085, 0.085, 0.012, back, rotation=rotate_x(-lean))
    return s.wears(head=((0, 0.44, 0.07), 0.145), neck=((0, 0.08, 0.02), 0.2, 12))


def turtle(rng, colour):
    s, wide, long, high = Solid(), 0.35 * around(rng), 0.4 * around(rng, 0.06), 0.3 * around(rng)
    skin, plate = lighter(colour, 0.45), _accent(colour, 0.35)
    s.ellipsoid((0, -0.1, -0.08), (wide, high, long), colour)
    s.ellipsoid((0, -0.12, -0.08), (wide + 0.05, 0.08, long + 0.05), plate)
    for turn in (np.eye(3), *(rotate_y(azimuth) @ rotate_x(52) for azimuth in range(0, 360, 60))):
        up = turn @ (0, 1, 0)
        s.ellipsoid((0, -0.1, -0.08) + up * (wide, high, long) * 0.93, (0.115, 0.05, 0.115), plate, rotation=turn)
    s.ellipsoid((0, -0.05, 0.4), (0.11, 0.1, 0.16), skin, rotation=rotate_x(-35))
    s.sphere((0, 0.1, 0.49), 0.19 * around(rng, 0.06), skin, blend=0.04)
    _eyes(s, (0.105, 0.17, 0.59), 0.08, 15)
    s.ellipsoid((0, 0.025, 0.65), (0.075, 0.022, 0.04), MOUTH)
    for x in SIDES:
        for z in (0.2, -0.33):
            s.ellipsoid((x * 0.28, -0.24, z), (0.12, 0.14, 0.13), skin)
    s.ellipsoid((0, -0.17, -0.53), (0.06, 0.055, 0.11), skin, rotation=rotate_x(-15))
    return s


def owl(rng, colour):
    s, wide = Solid(), 0.31 * around(rng)
    light, wing = lighter(colour, 0.6), _accent(colour, 0.35)
    s.ellipsoid((0, -0.14, 0), (wide, 0.37, 0.28), colour)
    s.ellipsoid((0, 0.24, 0.02), (0.29, 0.25 * around(rng, 0.06), 0.25), colour, blend=0.06)
    s.ellipsoid((0, -0.17, 0.1), (wide * 0.7, 0.3, 0.205), light)
    eye = 0.12 * around(rng)
    for x in SIDES:
        s.cone((x * 0.21, 0.46, 0.02), 0.12, 0.1, 0.015, colour, rotation=rotate_z(-x * 24), blend=0.03)
        s.ellipsoid((x * 0.125, 0.26, 0.17), (0.145, 0.15, 0.1), light)
        s.ellipsoid((x * wide, -0.13, -0.05), (0.09, 0.3 * around(rng), 0.2), wing, rotation=rotate_z(x * 10))
        s.ellipsoid((x * 0.13, -0.49, 0.16), (0.1, 0.06, 0.14), BEAK)
        s.ellipsoid((x * 0.085, -0.12, 0.29), (0.05, 0.035, 0.03), wing)
        s.ellipsoid((x * 0.085, -0.28, 0.28), (0.05, 0.035, 0.03), wing)
    s.ellipsoid((0, -0.2, 0.305), (0.05, 0.035, 0.03), wing)
    _eyes(s, (0.125, 0.27, 0.22), eye)
    s.cone((0, 0.185, 0.29), 0.07, 0.012, 0.065, BEAK, rotation=rotate_x(-15))
    s.ellipsoid((0, -0.44, -0.25), (0.15, 0.06, 0.17), wing, rotation=rotate_x(-25))
    return s.wears(head=((0, 0.45, 0.02), 0.14), neck=((0, 0.04, 0.02), 0.28, 6))


def bee(rng, colour):
    s, fat, long = Solid(), 0.27 * around(rng), 0.38 * around(rng, 0.06)
    dark = BLACK if max(colour) > 0.3 else (0.96, 0.82, 0.15)
    s.ellipsoid((0, 0, -0.12), (fat, fat, long), colour)
    for z in (-0.26, -0.06, 0.13):
        ends = [fat * np.sqrt(1 - ((z + end) / long) ** 2) + 0.012 for end in (-0.048, 0.048)]
        s.cone((0, 0, z - 0.12), 0.048, *ends, dark, rotation=rotate_x(90))
    s.cone((0, 0, -0.12 - long), 0.07, 0.01, 0.07, dark, rotation=rotate_x(90))
    s.sphere((0, 0.05, 0.3), 0.22 * around(rng, 0.06), colour)
    _eyes(s, (0.1, 0.1, 0.46), 0.078, 10)
    s.ellipsoid((0, -0.03, 0.495), (0.085, 0.022, 0.04), MOUTH)
    span = 0.25 * around(rng)
    for x in SIDES:
        s.cylinder((x * 0.11, 0.28, 0.34), 0.03, 0.1, dark, rotation=rotate_z(-x * 25))
        s.sphere((x * 0.155, 0.38, 0.34), 0.058, dark)
        turn = rotate_y(x * 15) @ rotate_z(x * 38)
        s.ellipsoid((x * 0.29, 0.34, -0.06), (span, 0.055, 0.16), WING, rotation=turn)
        s.ellipsoid((x * 0.27, 0.25, -0.26), (span * 0.7, 0.05, 0.11), WING, rotation=turn)
        for z in (-0.2, 0.06):
            s.ellipsoid((x * 0.13, -fat, z), (0.05, 0.08, 0.05), BLACK)
    return s


def snail(rng, colour):
    s, big = Solid(), around(rng, 0.06)
    side, groove = rotate_z(90), _accent(colour, 0.35)
    s.ellipsoid((0, -0.36, 0), (0.22, 0.1, 0.5), SOFT)
    s.ellipsoid((0, -0.36, -0.4), (0.11, 0.06, 0.2), SOFT, blend=0.05)
    s.ellipsoid((0, -0.17, 0.38), (0.13, 0.24, 0.13), SOFT, rotation=rotate_x(12), blend=0.08)
    s.sphere((0, 0.02, 0.43), 0.16 * around(rng), SOFT, blend=0.04)
    y, z = 0.02, -0.12
    s.torus((0, y, z), 0.22 * big, 0.17 * big, colour, rotation=side)
    s.ellipsoid((0, y, z), (0.2, 0.24, 0.24), groove)
    for x in SIDES:
        s.torus((x * 0.15, y + 0.01, z + 0.015), 0.155 * big, 0.055, groove, rotation=side)
        s.sphere((x * 0.13, y + 0.02, z + 0.03), 0.1, colour)
        s.cylinder((x * 0.09, 0.21, 0.43), 0.038, 0.12 * around(rng), SOFT, rotation=rotate_z(-x * 14))
        s.sphere((x * 0.085, 0.0, 0.55), 0.035, CHEEK)
    _eyes(s, (0.12, 0.34, 0.44), 0.095, 20)
    s.ellipsoid((0, -0.03, 0.575), (0.065, 0.017, 0.035), MOUTH)
    return s


def fish(rng, colour):
    s, high, fat = Solid(), 0.32 * around(rng), 0.22 * around(rng)
    fin = _accent(colour, 0.3)
    s.ellipsoid((0, 0, 0.08), (fat, high, 0.4 * around(rng, 0.06)), colour)
    s.ellipsoid((0, 0, -0.28), (0.1, 0.13, 0.2), colour, blend=0.1)
    for y in SIDES:
        s.ellipsoid((0, y * 0.15, -0.49), (0.065, 0.22, 0.12), fin, rotation=rotate_x(-y * 35))
    s.ellipsoid((0, high - 0.01, -0.02), (0.06, 0.14, 0.23), fin, rotation=rotate_x(14))
    s.ellipsoid((0, -high + 0.01, -0.05), (0.055, 0.1, 0.14), fin, rotation=rotate_x(-25))
    for x in SIDES:
        s.ellipsoid((x * (fat + 0.06), -0.08, -0.02), (0.05, 0.11, 0.17), fin, rotation=rotate_y(-x * 40))
    _eyes(s, (0.145, 0.09, 0.31), 0.1, 45)
    s.torus((0, -0.07, 0.465), 0.055, 0.035, CHEEK, rotation=rotate_x(90))
    return s


def whale(rng, colour):
    s, wide, high = Solid(), 0.35 * around(rng), 0.33 * around(rng)
    s.ellipsoid((0, -0.08, 0.1), (wide, high, 0.43), colour)
    s.ellipsoid((0, -0.03, -0.34), (0.17, 0.15, 0.27), colour, rotation=rotate_x(25), blend=0.12)
    s.ellipsoid((0, 0.12, -0.54), (0.08, 0.08, 0.15), colour, rotation=rotate_x(50), blend=0.06)
    s.ellipsoid((0, -0.15, 0.13), (wide * 0.93, high * 0.82, 0.42), WHITE)
    span = 0.2 * around(rng)
    for x in SIDES:
        turn = rotate_y(-x * 25) @ rotate_z(x * 12)
        s.ellipsoid((x * 0.17, 0.24, -0.63), (span, 0.055, 0.12), colour, rotation=turn)
        turn = rotate_y(x * 25) @ rotate_z(-x * 30)
        s.ellipsoid((x * (wide + 0.06), -0.22, 0.08), (0.17, 0.05, 0.11), colour, rotation=turn)
        s.sphere((x * 0.1, 0.46, 0.08), 0.072, WATER)
        s.sphere((x * 0.19, 0.39, 0.08), 0.062, WATER)
    _eyes(s, (0.245, 0.02, 0.36), 0.08, 40)
    s.cylinder((0, 0.32, 0.08), 0.05, 0.12, WATER)
    s.sphere((0, 0.49, 0.08), 0.09, WATER)
    return s


def octopus(rng, colour):
    s, reach = Solid(), around(rng, 0.07)
    s.ellipsoid((0, 0.16, -0.02), (0.3 * around(rng), 0.33 * around(rng), 0.3), colour)
    s.ellipsoid((0, -0.14, 0), (0.22, 0.16, 0.22), colour, blend=0.08)
    for azimuth in np.arange(22.5, 360, 45):
        turn = rotate_y(azimuth)
        arm, tip = turn @ (0, -0.25, 0.25 * reach), turn @ (0, -0.3, 0.46 * reach)
        s.ellipsoid(arm, (0.095, 0.09, 0.18), colour, rotation=turn @ rotate_x(30), blend=0.04)
        s.ellipsoid(tip, (0.08, 0.075, 0.14), colour, rotation=turn @ rotate_x(-35), blend=0.04)
    _eyes(s, (0.125, 0.18, 0.23), 0.11, 8)
    s.ellipsoid((0, 0.03, 0.28), (0.07, 0.035, 0.03), MOUTH)
    for x in SIDES:
        s.sphere((x * 0.19, 0.05, 0.23), 0.04, CHEEK)
    return s
