"""The objects: each a function (random generator, colour) -> Solid, with real variation in proportions.

Front is +z, up is +y. Sizes are relative: `Solid.rows` centres and scales the whole.
"""

from __future__ import annotations

from importlib import import_module

import numpy as np

from toybox.primitives import SPOTS, STRIPES
from toybox.shapes import extras
from toybox.shapes.parts import BLACK, WHITE
from toybox.words import COLOURS, OBJECTS, SUPPORTS, WORN

PATTERNS = {"spotted": SPOTS, "striped": STRIPES}
LUMA = (0.299, 0.587, 0.114)


def build(caption, *, rng):
    """One variant of what a caption says.

    Args:
        caption: `captions.Caption`.
        rng: numpy Generator; proportions and the exact tints follow from it.

    Returns:
        Primitives, centred, largest half extent 0.45. [P, ROW] float32
    """
    colour = tint(rng, caption.colour, OBJECTS[caption.name].usual)
    solid = maker(caption.name)(rng, colour)
    if caption.pattern:
        second = BLACK if np.dot(colour, LUMA) > 0.6 else WHITE
        solid.paint(colour, PATTERNS[caption.pattern], second)
    if caption.worn:
        getattr(extras, caption.worn)(solid, tint(rng, caption.worn_colour, WORN[caption.worn]))
    if caption.support:
        getattr(extras, caption.support)(solid, tint(rng, caption.support_colour, SUPPORTS[caption.support]))
    return solid.rows()


def maker(name):
    """The function (random generator, colour) -> Solid that draws an object."""
    return getattr(import_module(f"toybox.shapes.{OBJECTS[name].kind}"), name.replace(" ", "_"))


def tint(rng, colour, usual):
    """The colour that is said, a little lighter or darker, its hue hardly changed: grey stays grey."""
    shade = np.asarray(COLOURS[colour] if colour else usual) * (1 + rng.normal(0, 0.05))
    return tuple(np.clip(shade + rng.normal(0, 0.006, 3), 0.02, 0.98))
