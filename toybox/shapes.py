"""The objects: each a function (random generator, colour) -> Solid, with real variation in proportions.

Front is +z, up is +y. Sizes are relative: `Solid.rows` centres and scales the whole.
"""

from __future__ import annotations

import numpy as np

from toybox.primitives import Solid, rotate_x, rotate_y, rotate_z
from toybox.words import COLOURS, OBJECTS

WHITE, BLACK = (0.97, 0.97, 0.97), (0.06, 0.06, 0.06)
CREAM, WOOD, BEAK, GLASS = (0.93, 0.88, 0.76), (0.42, 0.26, 0.12), (0.98, 0.55, 0.08), (0.60, 0.80, 0.93)
SIDES = (-1, 1)


def _around(rng, amount=0.1):
    return 1 + rng.uniform(-amount, amount)


def _lighter(colour, amount=0.5):
    return tuple(np.asarray(colour) * (1 - amount) + amount * 0.97)


def _darker(colour, amount=0.25):
    return tuple(np.asarray(colour) * (1 - amount))


def _on_dome(polar, azimuth):
    return np.array([np.sin(polar) * np.cos(azimuth), np.cos(polar), np.sin(polar) * np.sin(azimuth)])


def frog(rng, colour):
    s, width = Solid(), _around(rng)
    belly = _lighter(colour, 0.55)
    s.ellipsoid((0, -0.15, -0.02), (0.38 * width, 0.28 * _around(rng), 0.42), colour)
    s.ellipsoid((0, -0.18, 0.12), (0.28 * width, 0.22, 0.33), belly)
    s.ellipsoid((0, 0.08, 0.24), (0.33 * _around(rng), 0.2, 0.25), colour, blend=0.08)
    eye = 0.125 * _around(rng)
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


def mushroom(rng, colour):
    s, height = Solid(), 0.32 * _around(rng)
    s.cone((0, -0.25, 0), 0.3, 0.2 * _around(rng), 0.15 * _around(rng), CREAM)
    s.ellipsoid((0, 0.1, 0), (0.52 * _around(rng, 0.05), height, 0.52), colour)
    for i in range(11):
        azimuth, polar = i * 2.4 + rng.uniform(0, 0.4), 0.25 + 1.05 * ((i * 0.37) % 1)
        d = _on_dome(polar, azimuth)
        s.ellipsoid((d[0] * 0.5, 0.1 + d[1] * height * 0.97, d[2] * 0.5), (0.08, 0.065, 0.08), WHITE)
    s.cylinder((0, 0.02, 0), 0.5, 0.05, _darker(CREAM, 0.06), rounding=0.04)
    return s


def car(rng, colour):
    s, length, cabin = Solid(), 0.56 * _around(rng, 0.08), rng.uniform(-0.08, 0.0)
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


def duck(rng, colour):
    s, head = Solid(), 0.21 * _around(rng)
    s.ellipsoid((0, -0.2, -0.05), (0.31 * _around(rng), 0.25, 0.42), colour)
    s.sphere((0, 0.2, 0.2), head, colour, blend=0.1)
    s.ellipsoid((0, -0.08, -0.42), (0.13, 0.1, 0.17), colour, rotation=rotate_x(30), blend=0.08)
    s.ellipsoid((0, 0.15, 0.43), (0.12, 0.05, 0.14), BEAK)
    for x in SIDES:
        s.ellipsoid((x * 0.11, 0.26, 0.36), (0.042, 0.048, 0.04), BLACK)
        s.ellipsoid((x * 0.28, -0.16, -0.1), (0.08, 0.16, 0.27), _darker(colour, 0.15))
    return s


def chair(rng, colour):
    s, leg, back = Solid(), 0.2 * _around(rng), 0.3 * _around(rng)
    s.box((0, -0.05, 0), (0.32, 0.06, 0.32), colour, rounding=0.03)
    for x in (-0.25, 0.25):
        for z in (-0.25, 0.25):
            s.cylinder((x, -0.08 - leg, z), 0.06, leg, colour, rounding=0.02)
    s.box((0, -0.05 + back, -0.26), (0.32, back, 0.06), colour, rounding=0.04)
    s.box((0, 0.02, 0.03), (0.25, 0.04, 0.24), _lighter(colour, 0.35), rounding=0.035)
    return s


def bear(rng, colour):
    s, light, ear = Solid(), _lighter(colour, 0.5), 0.11 * _around(rng)
    s.ellipsoid((0, -0.22, 0), (0.3 * _around(rng), 0.3, 0.26), colour)
    s.ellipsoid((0, 0.22, 0.03), (0.26 * _around(rng), 0.24, 0.24), colour)
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


def snowman(rng, colour):
    s, head = Solid(), 0.18 * _around(rng, 0.06)
    s.ellipsoid((0, -0.38, 0), (0.34 * _around(rng, 0.06), 0.31, 0.34), WHITE)
    s.ellipsoid((0, 0.02, 0), (0.26 * _around(rng, 0.06), 0.24, 0.26), WHITE)
    s.sphere((0, 0.34, 0), head, WHITE)
    s.cone((0, 0.33, 0.25), 0.11, 0.05, 0.008, (0.95, 0.5, 0.1), rotation=rotate_x(90))
    for x in SIDES:
        s.ellipsoid((x * 0.075, 0.4, 0.15), (0.032, 0.034, 0.03), BLACK)
        s.cylinder((x * 0.35, 0.1, 0), 0.032, 0.15, WOOD, rotation=rotate_z(x * -60))
    for y in (-0.08, 0.02, 0.11):
        s.ellipsoid((0, y, 0.255 - abs(y) * 0.12), (0.036, 0.036, 0.03), BLACK)
    s.cylinder((0, 0.49, 0), 0.22, 0.025, colour)
    s.cylinder((0, 0.61, 0), 0.14, 0.12, colour)
    s.torus((0, 0.2, 0), 0.165, 0.055, colour)
    s.box((0.09, 0.08, 0.24), (0.05, 0.11, 0.025), colour, rotation=rotate_x(-8))
    return s


def hamburger(rng, colour):
    s, dome = Solid(), 0.3 * _around(rng)
    s.ellipsoid((0, 0.1, 0), (0.48, dome, 0.48), colour)
    s.cylinder((0, 0.05, 0), 0.52, 0.045, (0.35, 0.72, 0.2), rounding=0.04)
    s.cylinder((0, -0.03, 0), 0.49, 0.035, (0.9, 0.18, 0.13), rounding=0.03)
    s.box((0, -0.075, 0), (0.43, 0.018, 0.43), (0.99, 0.8, 0.15), rotation=rotate_y(rng.uniform(0, 90)))
    s.cylinder((0, -0.15, 0), 0.49, 0.065, (0.36, 0.19, 0.1), rounding=0.05)
    s.cylinder((0, -0.29, 0), 0.47, 0.1, colour, rounding=0.07)
    for i in range(14):
        d = _on_dome(0.15 + 0.07 * i, i * 2.4)
        s.ellipsoid((d[0] * 0.48, 0.1 + d[1] * dome, d[2] * 0.48), (0.034, 0.026, 0.034), (0.99, 0.94, 0.78))
    return s


def penguin(rng, colour):
    s, width = Solid(), 0.3 * _around(rng)
    s.ellipsoid((0, -0.1, 0), (width, 0.42, 0.28), colour)
    s.ellipsoid((0, -0.14, 0.07), (width * 0.78, 0.36, 0.25), WHITE)
    s.sphere((0, 0.33, 0.02), 0.21 * _around(rng, 0.06), colour, blend=0.06)
    s.cone((0, 0.3, 0.27), 0.09, 0.07, 0.01, BEAK, rotation=rotate_x(90))
    for x in SIDES:
        s.ellipsoid((x * 0.085, 0.36, 0.165), (0.07, 0.075, 0.06), WHITE)
        s.ellipsoid((x * 0.085, 0.365, 0.215), (0.034, 0.04, 0.025), BLACK)
        s.ellipsoid((x * (width + 0.03), -0.08, 0.0), (0.065, 0.25, 0.13), colour, rotation=rotate_z(x * 18))
        s.ellipsoid((x * 0.14, -0.5, 0.12), (0.12, 0.05, 0.18), BEAK)
    s.ellipsoid((0, -0.42, -0.26), (0.1, 0.06, 0.1), colour)
    return s


def rocket(rng, colour):
    s, length = Solid(), 0.34 * _around(rng)
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


def house(rng, colour):
    s, wall, depth = Solid(), 0.26 * _around(rng), 0.36 * _around(rng)
    s.box((0, -0.2, 0), (0.36, wall, depth), CREAM, rounding=0.01)
    top = -0.2 + wall
    for x in SIDES:
        tilt = rotate_z(-x * 42)
        s.box((x * 0.2, top + 0.17, 0), (0.31, 0.04, depth + 0.08), colour, rotation=tilt, rounding=0.02)
    for z in (-depth + 0.02, depth - 0.02):
        s.box((0, top, z), (0.25, 0.25, 0.02), CREAM, rotation=rotate_z(45), rounding=0.01)
    s.box((0.2, top + 0.34, -0.1), (0.07, 0.15, 0.07), (0.6, 0.27, 0.2), rounding=0.01)
    s.box((0, -0.2 - wall + 0.19, depth), (0.1, 0.19, 0.025), WOOD, rounding=0.01)
    s.sphere((0.06, -0.2 - wall + 0.19, depth + 0.03), 0.02, (0.95, 0.8, 0.2))
    for x in SIDES:
        s.box((x * 0.235, -0.16, depth), (0.075, 0.085, 0.02), (0.35, 0.62, 0.9), rounding=0.01)
        s.box((x * 0.36, -0.16, 0), (0.02, 0.085, 0.11), (0.35, 0.62, 0.9), rounding=0.01)
    return s


def tree(rng, colour):
    s = Solid()
    s.cone((0, -0.42, 0), 0.2, 0.13, 0.1, WOOD)
    for i, (y, width) in enumerate(((-0.12, 0.42), (0.14, 0.34), (0.38, 0.25))):
        shade = _darker(colour, 0.12 * (2 - i))
        s.cone((0, y, 0), 0.19, width * _around(rng, 0.06), 0.05, shade)
    return s


MAKERS = {name: globals()[name] for name in OBJECTS}


def build(name, colour=None, *, rng):
    """One variant of an object.

    Args:
        name: One of `words.OBJECTS`.
        colour: One of `words.COLOURS`, or None for the object's usual colour.
        rng: numpy Generator; proportions and the exact tint follow from it.

    Returns:
        Primitives, centred, largest half extent 0.45. [P, 21] float32
    """
    tint = COLOURS[colour] if colour else OBJECTS[name].usual
    tint = tuple(np.clip(np.asarray(tint) + rng.normal(0, 0.025, 3), 0.02, 0.98))
    return MAKERS[name](rng, tint).rows()
