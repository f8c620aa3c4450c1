"""What the shapes share: colours that are never said, and how a proportion varies."""

from __future__ import annotations

import numpy as np

WHITE, BLACK = (0.97, 0.97, 0.97), (0.06, 0.06, 0.06)
CREAM, WOOD, BEAK, GLASS = (0.93, 0.88, 0.76), (0.42, 0.26, 0.12), (0.98, 0.55, 0.08), (0.60, 0.80, 0.93)
METAL, GOLD, LEAF, SKIN = (0.72, 0.74, 0.77), (0.95, 0.75, 0.10), (0.25, 0.62, 0.20), (0.98, 0.72, 0.62)
SIDES = (-1, 1)


def around(rng, amount=0.1):
    """A random factor near 1."""
    return 1 + rng.uniform(-amount, amount)


def lighter(colour, amount=0.5):
    return tuple(np.asarray(colour) * (1 - amount) + amount * 0.97)


def darker(colour, amount=0.25):
    return tuple(np.asarray(colour) * (1 - amount))


def on_dome(polar, azimuth):
    """Unit vector; polar angle from the top, both in radians. [3]"""
    return np.array([np.sin(polar) * np.cos(azimuth), np.cos(polar), np.sin(polar) * np.sin(azimuth)])
