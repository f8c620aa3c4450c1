"""The words Toybox knows: objects, colours, phrasings, and what to say about the others. Imports nothing heavy."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

COLOURS = {
    "red": (0.85, 0.12, 0.10),
    "green": (0.20, 0.65, 0.20),
    "blue": (0.15, 0.30, 0.85),
    "yellow": (0.96, 0.82, 0.15),
    "orange": (0.96, 0.50, 0.10),
    "purple": (0.55, 0.20, 0.70),
    "pink": (0.96, 0.55, 0.70),
    "white": (0.93, 0.93, 0.93),
    "black": (0.10, 0.10, 0.10),
    "brown": (0.50, 0.30, 0.15),
}


@dataclass(frozen=True)
class Word:
    usual: tuple[float, float, float]  # the colour when none is said, RGB in [0, 1]
    has_front: bool = True  # does the back differ from the front at a glance
    synonyms: tuple[str, ...] = ()


OBJECTS = {
    "frog": Word(COLOURS["green"], synonyms=("toad",)),
    "mushroom": Word(COLOURS["red"], has_front=False, synonyms=("toadstool",)),
    "car": Word(COLOURS["red"], synonyms=("automobile",)),
    "duck": Word(COLOURS["yellow"], synonyms=("duckling",)),
    "chair": Word(COLOURS["brown"]),
    "bear": Word(COLOURS["brown"], synonyms=("teddy bear", "teddy")),
    "snowman": Word(COLOURS["red"]),
    "hamburger": Word((0.85, 0.58, 0.25), has_front=False, synonyms=("burger", "cheeseburger")),
    "penguin": Word(COLOURS["black"]),
    "rocket": Word(COLOURS["red"], synonyms=("spaceship",)),
    "house": Word(COLOURS["red"], synonyms=("cottage",)),
    "tree": Word(COLOURS["green"], has_front=False, synonyms=("fir", "pine")),
}
PHRASINGS = ("", "a photo of ", "a dslr photo of ", "a 3d model of ", "a rendering of ")
SPELT_ALIKE = 0.7  # difflib's ratio from which a word may be a misspelling of another: one slip in four letters
VIEWS = ("front", "side", "back", "overhead")
_SYNONYMS = {synonym: name for name, word in OBJECTS.items() for synonym in word.synonyms}
_FILLERS = {"a", "an", "the", "of", "photo", "dslr", "3d", "model", "rendering", "picture", "toy", "cute", "little"}


def article(word):
    """a or an, for the word that follows."""
    return "an" if word[0] in "aeiou" else "a"


def caption(name, colour=None):
    """The sentence for an object: "a frog", "an orange frog"."""
    first = colour or name
    return f"{article(first)} {colour + ' ' if colour else ''}{name}"


def vocabulary():
    """Every word that a caption of the training pictures can hold, sorted."""
    sentences = [caption(name, colour) for name in OBJECTS for colour in (None, *COLOURS)]
    sentences += [*PHRASINGS, *(f"{view} view ," for view in VIEWS), *_FILLERS, *_SYNONYMS]
    return sorted({word for sentence in sentences for word in words_of(sentence)})


def words_of(text):
    """Lower-case words and commas of a sentence."""
    return re.findall(r"[a-z0-9]+|,", text.lower())


def parse(text):
    """What a sentence asks for.

    Returns:
        (object name, colour or None)

    Raises:
        ValueError: a word is unknown, or there is not exactly one object; names the nearest known words.
    """
    words, found, colours, unknown = words_of(text), [], [], []
    for i, word in enumerate(words):
        if word == "teddy" and words[i + 1 : i + 2] == ["bear"]:
            continue
        name = word if word in OBJECTS else _SYNONYMS.get(word)
        if name:
            found.append(name)
        elif word in COLOURS:
            colours.append(word)
        elif word not in _FILLERS and word != ",":
            unknown.append(word)
    if unknown or len(found) != 1 or len(colours) > 1:
        raise ValueError(_explain(text, unknown, found, colours))
    return found[0], colours[0] if colours else None


def canonical(text):
    """The sentence as the prior was trained on it: "A photo of a red teddy bear" -> "a red bear"."""
    return caption(*parse(text))


def _explain(text, unknown, found, colours):
    if unknown:
        known = COLOURS if found else [*OBJECTS, *_SYNONYMS]  # what else the sentence can lack
        near = sorted({match for word in unknown for match in difflib.get_close_matches(word, known, 3, SPELT_ALIKE)})
        reason = f"does not know {', '.join(repr(word) for word in unknown)}"
        hint = f"; nearest: {', '.join(near)}" if near else ""
    elif len(found) != 1:
        reason, hint = (f"makes one object at a time, got {' and '.join(found)}" if found else "needs an object"), ""
    else:
        reason, hint = f"takes one colour, got {' and '.join(colours)}", ""
    return (
        f"--text {text!r}: the embedded prior (Toybox) {reason}{hint}. It knows {', '.join(OBJECTS)} "
        f"in {', '.join(COLOURS)}; for any other words use --guidance SD (needs a GPU and its weights)"
    )
