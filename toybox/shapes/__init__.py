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
    tint = _tint(rng, caption.colour, OBJECTS[caption.name].usual)
    module = import_module(f"toybox.shapes.{OBJECTS[caption.name].kind}")
    solid = getattr(module, caption.name.replace(" ", "_"))(rng, tint)
    if caption.pattern:
        second = BLACK if np.dot(tint, LUMA) > 0.6 else WHITE
        solid.paint(tint, PATTERNS[caption.pattern], second)
    if caption.worn:
        getattr(extras, caption.worn)(solid, _tint(rng, caption.worn_colour, WORN[caption.worn]))
    if caption.support:
        getattr(extras, caption.support)(solid, _tint(rng, caption.support_colour, SUPPORTS[caption.support]))
    return solid.rows()


def _tint(rng, colour, usual):
    return tuple(np.clip(np.asarray(COLOURS[colour] if colour else usual) + rng.normal(0, 0.025, 3), 0.02, 0.98))
