"""What drives, swims and flies. Front is +z, up is +y; each function is (random generator, colour) -> Solid."""

from __future__ import annotations

import numpy as np

from toybox.primitives import Solid, rotate_x, rotate_y, rotate_z
from toybox.shapes.parts import BLACK, GLASS, GOLD, METAL, SIDES, WHITE, WOOD, around, darker, lighter

LIGHT, TAIL_LIGHT, IRON = (1.0, 0.95, 0.55), (0.75, 0.03, 0.03), (0.25, 0.25, 0.27)


def car(rng, colour):
    s, length, cabin = Solid(), 0.56 * around(rng, 0.08), rng.uniform(-0.08, 0.0)
    s.box((0, -0.1, 0), (0.28, 0.13, length), colour, rounding=0.07)
    s.box((0, 0.1, cabin), (0.235, 0.13, 0.3), GLASS, rounding=0.06)
    s.box((0, 0.22, cabin), (0.23, 0.05, 0.27), colour, rounding=0.045)
    _wheels(s, 0.33, -0.22, (0.6 * length, -0.6 * length), 0.145)
    for x in SIDES:
        s.box((x * 0.232, 0.1, cabin), (0.012, 0.13, 0.03), colour, rounding=0.01)
        s.ellipsoid((x * 0.17, -0.07, length), (0.07, 0.065, 0.035), LIGHT)
        s.box((x * 0.18, -0.07, -length), (0.065, 0.045, 0.02), TAIL_LIGHT)
    s.box((0, -0.18, length), (0.13, 0.035, 0.02), IRON)
    s.box((0, -0.18, -length), (0.22, 0.035, 0.03), METAL)
    return s


def truck(rng, colour):
    s, box, tall, cab = Solid(), 0.34 * around(rng, 0.08), 0.27 * around(rng), 0.19 * around(rng, 0.08)
    back = 0.2 - 2 * box
    front = 0.56
    s.box((0, -0.2, (back + front) / 2), (0.2, 0.06, (front - back) / 2), IRON, rounding=0.03)
    s.box((0, tall - 0.14, 0.2 - box), (0.27, tall, box), colour, rounding=0.05)
    s.box((0, tall - 0.14, 0.2 - box), (0.278, 0.07, 0.97 * box), lighter(colour, 0.7), rounding=0.03)
    s.box((0, cab - 0.19, 0.4), (0.25, cab + 0.02, 0.16), colour, rounding=0.07)
    s.box((0, 1.4 * cab - 0.19, 0.53), (0.19, 0.4 * cab, 0.04), GLASS, rounding=0.03)
    s.box((0, 1.4 * cab - 0.19, 0.42), (0.258, 0.38 * cab, 0.07), GLASS, rounding=0.03)
    _wheels(s, 0.29, -0.25, (0.38, back + 0.42, back + 0.15), 0.13)
    for x in SIDES:
        s.ellipsoid((x * 0.16, -0.11, 0.555), (0.06, 0.06, 0.04), LIGHT)
        s.box((x * 0.2, -0.2, back), (0.06, 0.04, 0.03), TAIL_LIGHT)
        s.box((x * 0.06, tall - 0.14, back), (0.025, 0.6 * tall, 0.025), METAL)
    s.box((0, -0.22, 0.56), (0.24, 0.05, 0.04), METAL, rounding=0.03)
    return s


def bus(rng, colour):
    s, length, tall = Solid(), 0.47 * around(rng, 0.08), 0.26 * around(rng, 0.08)
    s.box((0, 0, 0), (0.23, tall, length), colour, rounding=0.07)
    s.box((0, tall, 0), (0.2, 0.03, 0.92 * length), lighter(colour, 0.7), rounding=0.03)
    for z in (-0.68, -0.23, 0.22, 0.67):
        s.box((0, 0.4 * tall, z * length), (0.238, 0.34 * tall, 0.18 * length), GLASS, rounding=0.03)
    s.box((0, 0.3 * tall, length), (0.19, 0.36 * tall, 0.012), GLASS, rounding=0.012)
    s.box((0, 0.83 * tall, length), (0.14, 0.035, 0.03), IRON, rounding=0.02)
    s.box((0, 0.45 * tall, -length), (0.12, 0.26 * tall, 0.012), GLASS, rounding=0.012)
    s.box((0, -0.22 * tall, 0), (0.238, 0.03, 0.96 * length), IRON, rounding=0.02)
    _wheels(s, 0.255, -tall, (0.55 * length, -0.55 * length), 0.125)
    for x in SIDES:
        s.ellipsoid((x * 0.145, -0.45 * tall, length), (0.06, 0.06, 0.035), LIGHT)
        s.box((x * 0.16, -0.45 * tall, -length), (0.04, 0.06, 0.02), TAIL_LIGHT)
    for z in SIDES:
        s.box((0, -0.86 * tall, z * length), (0.22, 0.04, 0.03), METAL, rounding=0.025)
    return s


def train(rng, colour):
    s, boiler, radius, cab = Solid(), 0.3 * around(rng, 0.08), 0.18 * around(rng, 0.08), 0.3 * around(rng, 0.08)
    front = 2 * boiler - 0.16
    s.box((0, -0.19, (front - 0.5) / 2), (0.18, 0.05, (front + 0.5) / 2), IRON, rounding=0.03)
    s.cylinder((0, 0.0, front - boiler), radius, boiler, colour, rounding=0.03, rotation=rotate_x(90))
    s.cylinder((0, 0.0, front), 0.88 * radius, 0.04, IRON, rounding=0.03, rotation=rotate_x(90))
    s.sphere((0, 0.03, front + 0.05), 0.065, LIGHT)
    s.box((0, cab - 0.2, -0.28), (0.23, cab, 0.17), colour, rounding=0.05)
    s.box((0, 2 * cab - 0.2, -0.28), (0.28, 0.045, 0.23), darker(colour, 0.4), rounding=0.04)
    s.box((0, 1.4 * cab - 0.2, -0.28), (0.238, 0.28 * cab, 0.09), GLASS, rounding=0.03)
    s.box((0, 1.4 * cab - 0.2, -0.45), (0.13, 0.24 * cab, 0.012), GLASS, rounding=0.012)
    s.box((0, -0.07, -0.5), (0.2, 0.13, 0.12), colour, rounding=0.03)
    s.box((0, -0.19, -0.61), (0.2, 0.04, 0.03), TAIL_LIGHT, rounding=0.025)
    for x in (-0.12, 0.12, 0):
        s.sphere((x, 0.05 + 0.03 * (x == 0), -0.51), 0.08, BLACK)
    s.cone((0, radius + 0.1, front - 0.13), 0.14, 0.06, 0.11, IRON)
    s.torus((0, radius + 0.22, front - 0.13), 0.095, 0.03, GOLD)
    s.sphere((0, radius, front - 0.38), 0.09, GOLD)
    s.cone((0, -0.27, front + 0.02), 0.09, 0.2, 0.12, TAIL_LIGHT)
    _wheels(s, 0.24, -0.23, (-0.28,), 0.16)
    _wheels(s, 0.24, -0.27, (0.05, front - 0.12), 0.12)
    return s


def boat(rng, colour):
    s, beam, tall, aft = Solid(), 0.21 * around(rng, 0.08), 0.7 * around(rng, 0.06), 0.36 * around(rng, 0.1)
    bow, deck = 0.44, 0.85 * beam
    s.box((0, -0.31, -aft / 2), (deck, 0.1, aft / 2), WOOD)
    s.box((0, -0.31, 0), (0.72 * deck, 0.1, 0.72 * deck), WOOD, rotation=rotate_y(45))
    s.box((0, -0.29, -aft), (beam, 0.17, 0.045), colour, rounding=0.04, rotation=rotate_x(-8))
    angle, edge = np.degrees(np.arctan2(beam, bow)), np.hypot(beam, bow) / 2
    for x in SIDES:
        flare = rotate_z(-x * 6)
        s.box((x * beam, -0.29, -aft / 2), (0.045, 0.17, aft / 2 + 0.03), colour, rounding=0.04, rotation=flare)
        turn = rotate_y(-x * angle) @ rotate_x(-5) @ flare
        s.box((x * beam / 2, -0.275, bow / 2), (0.045, 0.175, edge + 0.02), colour, rounding=0.04, rotation=turn)
    s.cylinder((0, tall / 2 - 0.05, 0.065), 0.037, tall / 2 + 0.12, WOOD)
    _sail(s, (0, -0.02, 0.03), 0.97 * tall, 0.46, WHITE, rotate_y(55))
    _sail(s, (0, -0.02, 0.1), 0.8 * tall, -0.34, WHITE, rotate_y(-22))
    s.box((0, tall + 0.03, 0.0), (0.037, 0.055, 0.1), colour, rounding=0.03)
    return s


def airplane(rng, colour):
    s, length, radius, span = Solid(), 0.5 * around(rng, 0.06), 0.18 * around(rng, 0.06), 0.27 * around(rng, 0.08)
    s.ellipsoid((0, 0, 0), (radius, radius, length), colour)
    s.cone((0, 0.05, -0.55 * length), 0.45 * length, 0.65 * radius, 0.05, colour, rotation=rotate_x(-90), blend=0.08)
    s.ellipsoid((0, 0.5 * radius, 0.62 * length), (0.6 * radius, 0.36 * radius, 0.26 * length), GLASS)
    for x in SIDES:
        turn = rotate_y(x * 20) @ rotate_z(x * 6)
        s.box((x * (0.1 + span * 0.8), -0.05, -0.02), (span, 0.04, 0.125), colour, rounding=0.033, rotation=turn)
        s.box((x * 0.14, 0.08, -0.86 * length), (0.15, 0.032, 0.075), colour, rounding=0.03, rotation=turn)
        s.cylinder((x * 0.32, -0.1, 0.04), 0.08, 0.12, METAL, rounding=0.03, rotation=rotate_x(90))
        s.cylinder((x * 0.32, -0.1, 0.15), 0.055, 0.02, IRON, rotation=rotate_x(90))
    s.box((0, 0.22, -0.84 * length), (0.042, 0.18, 0.11), darker(colour), rounding=0.035, rotation=rotate_x(-22))
    for z in (-0.32, -0.1, 0.12, 0.34):
        reach = radius * np.sqrt(1 - z * z) * 0.96 + 0.012
        s.cylinder((0, 0.05, z * length), 0.036, reach, GLASS, rotation=rotate_z(90))
    return s


def helicopter(rng, colour):
    s, body, boom, rotor = Solid(), 0.26 * around(rng, 0.06), 0.26 * around(rng), 0.45 * around(rng, 0.06)
    s.ellipsoid((0, 0, 0.12), (body, body, 0.33), colour)
    s.cone((0, 0.06, -boom), boom, 0.15, 0.06, colour, rotation=rotate_x(-90), blend=0.06)
    s.ellipsoid((0, 0.065, 0.25), (0.84 * body, 0.76 * body, 0.245), GLASS)

    s.box((0, 0.17, -2 * boom), (0.037, 0.14, 0.075), colour, rounding=0.035, rotation=rotate_x(-20))
    s.cylinder((0.06, 0.07, -2 * boom), 0.035, 0.06, METAL, rotation=rotate_z(90))
    for angle in (45, 135):
        s.box((0.09, 0.07, -2 * boom), (0.028, 0.14, 0.034), IRON, rotation=rotate_x(angle))
        s.box((0, body + 0.1, 0.08), (rotor, 0.032, 0.06), IRON, rounding=0.03, rotation=rotate_y(angle))
    s.cylinder((0, body + 0.03, 0.08), 0.07, 0.08, METAL)
    s.sphere((0, body + 0.13, 0.08), 0.065, TAIL_LIGHT)
    for x in SIDES:
        s.ellipsoid((x * 0.72 * body, 0.05, -0.05), (0.06, 0.08, 0.08), GLASS)
        s.cylinder((x * 0.21, -body - 0.09, 0.12), 0.04, 0.32, IRON, rounding=0.035, rotation=rotate_x(90))
        for z in (-0.01, 0.25):
            s.cylinder((x * 0.16, -body, z), 0.034, 0.11, IRON, rotation=rotate_z(x * 28))
    return s


def rocket(rng, colour):
    s, length, radius = Solid(), 0.32 * around(rng), 0.22 * around(rng, 0.06)
    s.cylinder((0, 0, 0), radius, length, WHITE, rounding=0.04)
    s.cone((0, length + 0.16, 0), 0.17, radius, 0.04, colour)
    s.sphere((0, length + 0.32, 0), 0.05, colour)
    s.cylinder((0, -length + 0.06, 0), radius + 0.02, 0.1, colour, rounding=0.04)
    s.cylinder((0, -length - 0.05, 0), 0.14, 0.06, IRON)
    s.cone((0, -length - 0.18, 0), 0.1, 0.03, 0.12, (1.0, 0.6, 0.1))
    for azimuth in (45, 135, 225, 315):
        turn = rotate_y(azimuth)
        at = turn @ (radius + 0.06, -length + 0.02, 0)
        s.box(at, (0.11, 0.18, 0.04), colour, rotation=turn @ rotate_z(25), rounding=0.035)
    s.cylinder((0, 0.1, radius - 0.01), 0.125, 0.03, METAL, rotation=rotate_x(90))
    s.cylinder((0, 0.1, radius + 0.005), 0.09, 0.03, (0.25, 0.55, 0.9), rotation=rotate_x(90))
    return s


def _wheels(s, x, y, zs, radius):
    for z in zs:
        for side in SIDES:
            s.cylinder((side * (x - 0.07), y, z), radius, 0.07, BLACK, rounding=0.03, rotation=rotate_z(90))
        s.cylinder((0, y, z), 0.48 * radius, x + 0.015, METAL, rotation=rotate_z(90))


def _sail(s, foot, tall, wide, colour, turn):
    """A right triangle with its right angle at `foot`, `wide` along -z before it is turned; its faces are one plane."""
    edge, slope = np.hypot(tall, wide) / 2, turn @ rotate_x(np.degrees(np.arctan2(wide, tall)))
    middle = foot + turn @ (0, tall / 2, -wide / 2)
    s.box(foot + turn @ (0, tall / 2, 0), (0.04, tall / 2 + 0.03, 0.045), colour, rotation=turn)
    s.box(foot + turn @ (0, 0, -wide / 2), (0.04, 0.05, abs(wide) / 2 + 0.03), colour, rotation=turn)
    s.box(middle, (0.04, edge, 0.045), colour, rotation=slope)
    inside = slope @ (0, -0.05, 0.05 * np.sign(wide))
    s.box(middle + inside, (0.04, 0.7 * edge, 0.06), colour, rotation=slope)
    for high in (0.2, 0.42, 0.66):
        half = (0.04, high / 2 * tall, (1 - high) * abs(wide) / 2)
        s.box(foot + turn @ (0, high / 2 * tall, (high - 1) / 2 * wide), half, colour, rotation=turn)
