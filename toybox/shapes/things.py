"""Things of the house. Front is +z, up is +y; each function is (random generator, colour) -> Solid."""

from __future__ import annotations

import numpy as np

from toybox.primitives import Solid, rotate_x, rotate_y, rotate_z
from toybox.shapes.parts import BLACK, GOLD, METAL, SIDES, WHITE, around, darker, lighter

RED, NAVY, COFFEE = (0.85, 0.15, 0.15), (0.15, 0.22, 0.55), (0.2, 0.1, 0.05)


def _unlike(colour, *choices):
    """The first of the choices that stands out from a colour, else dark blue."""
    return next((c for c in choices if np.abs(np.subtract(c, colour)) @ (0.9, 1.5, 0.6) > 0.75), NAVY)


def chair(rng, colour):
    s, leg, back = Solid(), 0.2 * around(rng), 0.3 * around(rng)
    s.box((0, -0.05, 0), (0.32, 0.06, 0.32), colour, rounding=0.03)
    for x in (-0.25, 0.25):
        for z in (-0.25, 0.25):
            s.cylinder((x, -0.08 - leg, z), 0.06, leg, colour, rounding=0.02)
    s.box((0, -0.05 + back, -0.26), (0.32, back, 0.06), colour, rounding=0.04)
    s.box((0, 0.02, 0.03), (0.25, 0.04, 0.24), lighter(colour, 0.35), rounding=0.035)
    return s


def mug(rng, colour):
    s, high, wide = Solid(), 0.36 * around(rng, 0.08), 0.34 * around(rng, 0.06)
    mark, grip = _unlike(colour, WHITE, RED), 0.2 * around(rng, 0.08)
    s.cylinder((0, -0.04, 0), wide, high - 0.04, colour, rounding=0.07)
    s.torus((wide + 0.02, -0.02, 0), grip, 0.075, colour, rotation=rotate_x(90), blend=0.04)
    s.torus((0, high - 0.07, 0), wide - 0.055, 0.06, lighter(colour, 0.35))
    s.cylinder((0, high - 0.08, 0), wide - 0.07, 0.025, COFFEE)
    for x in SIDES:
        s.ellipsoid((x * 0.06, -0.05, wide - 0.025), (0.085, 0.155, 0.06), mark, rotation=rotate_z(-x * 38))
    return s


def teapot(rng, colour):
    s, wide, high = Solid(), 0.38 * around(rng, 0.07), 0.33 * around(rng, 0.07)
    light, mark = lighter(colour, 0.4), _unlike(colour, WHITE, RED)
    s.ellipsoid((0, -0.08, 0), (wide, high, wide), colour)
    s.cone((wide + 0.03, -0.06, 0), 0.17, 0.15, 0.08, colour, rotation=rotate_z(-45), blend=0.06)
    s.cone((wide + 0.155, 0.1, 0), 0.08, 0.075, 0.095, colour, rotation=rotate_z(-20), blend=0.03)
    s.torus((-wide, -0.04, 0), 0.19 * around(rng), 0.065, colour, rotation=rotate_x(90))
    s.cylinder((0, -0.08 - high, 0), 0.22, 0.05, light, rounding=0.03)
    s.ellipsoid((0, high - 0.15, 0), (0.25, 0.11, 0.25), light)
    s.sphere((0, high + 0.01, 0), 0.09 * around(rng), colour)
    for angle in range(0, 360, 72):
        dx, dy, _ = rotate_z(angle) @ (0, 0.1, 0)
        s.sphere((dx, dy - 0.08, wide - 0.03), 0.06, mark)
    s.sphere((0, -0.08, wide + 0.005), 0.055, GOLD)
    return s


def table(rng, colour):
    s, wide, deep, leg = Solid(), 0.5 * around(rng, 0.06), 0.38 * around(rng), 0.24 * around(rng)
    fat = 0.085 * around(rng)
    s.box((0, 0.2, 0), (wide, 0.065, deep), colour, rounding=0.05)
    s.box((0, 0.11, 0), (wide - 0.09, 0.06, deep - 0.09), darker(colour), rounding=0.02)
    for x in SIDES:
        for z in SIDES:
            s.cone((x * (wide - 0.11), 0.14 - leg, z * (deep - 0.11)), leg, fat * 0.75, fat * 1.15, colour)
    return s


def lamp(rng, colour):
    s, wide, high = Solid(), 0.36 * around(rng, 0.08), 0.2 * around(rng)
    top, ball = lighter(colour, 0.55), 0.2 * around(rng)
    s.cylinder((0, -0.5, 0), 0.27, 0.05, darker(colour, 0.3), rounding=0.03)
    s.ellipsoid((0, -0.3, 0), (ball, 0.19, ball), colour)
    s.cylinder((0, -0.08, 0), 0.06, 0.15, GOLD)
    s.cone((0, 0.22, 0), high, wide, 0.2, colour)
    s.torus((0, 0.22 - high, 0), wide - 0.01, 0.03, top)
    s.torus((0, 0.22 + high, 0), 0.19, 0.03, top)
    s.cylinder((0, 0.22 + high, 0), 0.18, 0.012, (1.0, 0.95, 0.7))
    s.sphere((0, 0.25 + high, 0), 0.05, GOLD)
    return s


def hammer(rng, colour):
    s, fat, head = Solid(), 0.085 * around(rng), 0.14 * around(rng, 0.08)
    length, side = 0.4 * around(rng, 0.05), rotate_z(90)
    s.cylinder((0, 0.3 - length, 0), fat, length, (0.72, 0.48, 0.25), rounding=0.04)
    s.cylinder((0, 0.44 - 2 * length, 0), fat + 0.03, 0.17, colour, rounding=0.05)
    s.box((0, 0.32, 0), (0.13, head, head), colour, rounding=0.05)
    s.cylinder((0.17, 0.32, 0), head - 0.03, 0.1, darker(colour), rotation=side)
    s.cylinder((0.27, 0.32, 0), head + 0.03, 0.08, colour, rounding=0.03, rotation=side)
    for z in SIDES:
        s.cone((-0.22, 0.33, z * 0.07), 0.13, 0.1, 0.065, colour, rotation=rotate_z(95), blend=0.03)
        s.cone((-0.36, 0.27, z * 0.085), 0.1, 0.065, 0.035, colour, rotation=rotate_z(130), blend=0.03)
    return s


def key(rng, colour):
    s, ring, thick = Solid(), 0.2 * around(rng, 0.08), 0.1 * around(rng, 0.08)
    bit, length = 0.13 * around(rng), 0.32 * around(rng, 0.06)
    s.torus((0, 0.3, 0), ring, thick, colour, rotation=rotate_x(90))
    s.cylinder((0, 0.3 - ring - length, 0), 0.09, length, colour, rounding=0.03)
    s.cylinder((0, 0.3 - ring - 0.09, 0), 0.135, 0.055, lighter(colour, 0.4), rounding=0.03)
    foot = 0.3 - ring - 2 * length
    s.box((0.06 + bit, foot + 0.09, 0), (bit, 0.065, 0.08), colour, rounding=0.025)
    s.box((0.04 + bit * 0.8, foot + 0.28, 0), (bit * 0.8, 0.065, 0.08), colour, rounding=0.025)
    return s


def book(rng, colour):
    s, wide, high, thick = Solid(), 0.34 * around(rng, 0.08), 0.45 * around(rng, 0.06), 0.13 * around(rng)
    star, plate = _unlike(colour, GOLD, RED), _unlike(colour, WHITE)
    s.box((0, 0, 0), (wide - 0.03, high - 0.03, thick - 0.01), (0.95, 0.93, 0.87), rounding=0.01)
    for z in SIDES:
        s.box((0, 0, z * thick), (wide, high, 0.035), colour, rounding=0.03)
    s.box((-wide + 0.045, 0, 0), (0.08, high + 0.01, thick + 0.05), darker(colour, 0.3), rounding=0.06)
    s.box((0.05, high * 0.56, thick + 0.03), (wide * 0.6, 0.1, 0.02), plate, rounding=0.015)
    for y, half in ((0.035, 0.46), (-0.03, 0.3)):
        s.box((0.05, high * 0.56 + y, thick + 0.05), (wide * half, 0.017, 0.01), darker(colour, 0.4), rounding=0.005)
    for angle in range(0, 360, 72):
        turn = rotate_z(angle)
        dx, dy, _ = turn @ (0, 0.085, 0)
        s.cone((0.05 + dx, dy - high * 0.25, thick + 0.025), 0.085, 0.062, 0.008, star, rotation=turn)
    return s


def gift(rng, colour):
    s, wide, high, deep = Solid(), 0.31 * around(rng), 0.27 * around(rng), 0.31 * around(rng)
    ribbon = _unlike(colour, GOLD, RED)
    s.box((0, -0.2, 0), (wide, high, deep), colour, rounding=0.03)
    top = high - 0.2
    s.box((0, top - 0.05, 0), (wide + 0.03, 0.075, deep + 0.03), colour, rounding=0.03)
    s.box((0, -0.185, 0), (0.075, high + 0.035, deep + 0.045), ribbon, rounding=0.01)
    s.box((0, -0.185, 0), (wide + 0.045, high + 0.035, 0.075), ribbon, rounding=0.01)
    loop = 0.095 * around(rng)
    for azimuth in range(0, 360, 90):
        turn = rotate_y(azimuth) @ rotate_z(20)
        s.torus(turn @ (loop + 0.04, 0.03, 0) + (0, top + 0.08, 0), loop, 0.06, ribbon, rotation=turn @ rotate_x(90))
    s.sphere((0, top + 0.11, 0), 0.095, ribbon)
    return s


def robot(rng, colour):
    s, head, wide = Solid(), 0.24 * around(rng, 0.08), 0.25 * around(rng, 0.08)
    leg, light, side = 0.1 * around(rng), lighter(colour, 0.5), rotate_z(90)
    s.box((0, -0.13, 0), (wide, 0.2, 0.19), colour, rounding=0.06)
    s.cylinder((0, 0.1, 0), 0.1, 0.06, METAL)
    s.box((0, 0.3, 0), (head, 0.18, 0.2), colour, rounding=0.06)
    s.box((0, 0.29, 0.19), (head - 0.05, 0.12, 0.03), light, rounding=0.03)
    s.box((0, 0.21, 0.215), (0.09, 0.022, 0.015), BLACK)
    s.box((0, -0.12, 0.18), (wide - 0.08, 0.115, 0.03), light, rounding=0.03)
    for x, lit in zip((-0.085, 0, 0.085), (RED, GOLD, (0.2, 0.75, 0.3)), strict=True):
        s.sphere((x, -0.1, 0.205), 0.035, lit)
    for x in SIDES:
        s.sphere((x * 0.1, 0.325, 0.2), 0.065, WHITE)
        s.sphere((x * 0.1, 0.325, 0.245), 0.036, BLACK)
        s.cylinder((x * (head + 0.03), 0.3, 0), 0.075, 0.045, METAL, rotation=side)
        s.cylinder((x * (head + 0.05), 0.41, 0), 0.028, 0.1, METAL)
        s.sphere((x * (head + 0.05), 0.52, 0), 0.055, RED)
        s.sphere((x * (wide + 0.05), -0.02, 0), 0.09, METAL)
        s.cylinder((x * (wide + 0.1), -0.15, 0.02), 0.075, 0.14, colour, rounding=0.05, rotation=rotate_z(x * 14))
        s.sphere((x * (wide + 0.14), -0.31, 0.03), 0.085, METAL)
        s.cylinder((x * 0.13, -0.35 - leg * 0.5, 0), 0.085, leg, colour)
        s.box((x * 0.14, -0.4 - leg, 0.05), (0.12, 0.065, 0.17), darker(colour, 0.35), rounding=0.05)
    return s.wears(head=((0, 0.46, 0), 0.19), neck=((0, 0.1, 0), 0.19, 5))


def clock(rng, colour):
    s, r, deep = Solid(), 0.36 * around(rng, 0.06), 0.17 * around(rng)
    bell, metal, turn = 0.15 * around(rng), _unlike(colour, METAL, GOLD), rotate_x(90)
    s.cylinder((0, -0.06, 0), r, deep, colour, rounding=0.07, rotation=turn)
    s.cylinder((0, -0.06, deep), r - 0.07, 0.02, WHITE, rotation=turn)
    for angle in range(0, 360, 90):
        dx, dy, _ = rotate_z(angle) @ (0, r - 0.115, 0)
        s.sphere((dx, dy - 0.06, deep + 0.01), 0.026, BLACK)
    for angle, length in ((-60, 0.075), (35, 0.1)):
        dx, dy, _ = rotate_z(angle) @ (0, length, 0)
        half = (0.022, length, 0.02)
        s.box((dx, dy - 0.06, deep + 0.025), half, BLACK, rotation=rotate_z(angle))
    s.sphere((0, -0.06, deep + 0.03), 0.04, RED)
    for x in SIDES:
        lean = rotate_z(-x * 32)
        s.ellipsoid(lean @ (0, r + 0.06, 0) - (0, 0.06, 0), (bell, bell * 0.75, bell), metal, rotation=lean)
        s.sphere(lean @ (0, r + 0.06 + bell * 0.8, 0) - (0, 0.06, 0), 0.04, colour)
        foot = rotate_z(-x * 145)
        s.cone(foot @ (0, r + 0.03, 0) - (0, 0.06, 0), 0.09, 0.06, 0.075, metal, rotation=foot)
    s.box((0, r + 0.03, 0), (0.03, 0.09, 0.03), metal)
    s.box((0, -0.06, -deep - 0.03), (0.1, 0.04, 0.04), metal, rounding=0.03)
    return s
