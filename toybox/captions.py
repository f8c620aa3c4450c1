"""Sentences of the small world: what the prior's captions say, and what a user's sentence asks for.

    a [colour] [pattern] object [wearing a [colour] hat] [on a [colour] box]

Imports nothing heavy.
"""

from __future__ import annotations

import difflib
import textwrap
from dataclasses import dataclass

from toybox.words import (
    COLOURS,
    FILLERS,
    KINDRED,
    LINKS,
    MEANINGS,
    OBJECTS,
    PATTERNS,
    SUPPORTS,
    WORN,
    article,
    words_of,
)

SPELT_ALIKE = 0.7  # difflib's ratio from which a word may be a misspelling of another: one slip in four letters
LONGEST = max(len(phrase.split()) for phrase in MEANINGS)  # words of a phrase
EXAMPLES = ("a frog", "a striped cat wearing a crown", "a photo of a blue teddy bear on a yellow cushion")
HELD_OUT_STEP = 6  # one pair in so many is never in a training caption


@dataclass(frozen=True)
class Caption:
    """One sentence. None: not said."""

    name: str  # of words.OBJECTS
    colour: str | None = None
    pattern: str | None = None
    worn: str | None = None
    worn_colour: str | None = None
    support: str | None = None
    support_colour: str | None = None

    def __str__(self):
        """The sentence as the prior was trained on it: "a red spotted frog wearing a blue hat on a green box"."""
        parts = [_phrase(self.colour, self.pattern, self.name)]
        if self.worn:
            parts.append(f"wearing {_phrase(self.worn_colour, self.worn)}")
        if self.support:
            parts.append(f"on {_phrase(self.support_colour, self.support)}")
        return " ".join(parts)


def _phrase(*words):
    """A noun with what is said of it: (None, "frog") -> "a frog"."""
    said = [word for word in words if word]
    return " ".join([article(said[0]), *said])


def is_held_out(caption):
    """Whether the sentence holds a pair that no training caption has: (object, colour) or (object, worn).

    Every object misses two of the twelve colours; what can wear misses a hat, a crown or a scarf in every other case.
    """
    index = list(OBJECTS).index(caption.name)
    colour = list(COLOURS).index(caption.colour) if caption.colour else None
    wearer = [name for name, word in OBJECTS.items() if word.wears].index(caption.name) if caption.worn else None
    return (colour is not None and (5 * index + 7 * colour + 1) % HELD_OUT_STEP == 0) or (
        wearer is not None and (wearer + 2 * list(WORN).index(caption.worn)) % HELD_OUT_STEP == 1
    )


def parse(text):
    """What a sentence asks for.

    Returns:
        Caption

    Raises:
        ValueError: a word is unknown, there is not exactly one object, or it cannot be as asked; under five lines.
    """
    found, unknown = _read(words_of(text))
    of = lambda kind: [word for what, word, _ in found if what == kind]  # noqa: E731
    if unknown:
        raise _refusal(text, f"does not know {_listed(unknown, 'or', repr)}{_nearest(unknown, bool(of('object')))}")
    if len(of("object")) != 1:
        several = of("object") and f"makes one object at a time, got {_listed(of('object'))}"
        raise _refusal(text, several or "needs an object")
    said = {}
    for kind in ("object", "worn", "support"):
        nouns = [(word, modifiers) for what, word, modifiers in found if what == kind]
        if len(nouns) > 1:
            purpose = "to wear" if kind == "worn" else "to stand on"
            raise _refusal(text, f"takes one thing {purpose}, got {_listed(of(kind))}")
        said[kind] = nouns[0] if nouns else (None, {})
        for modifier, values in said[kind][1].items():
            if len(values) > 1:
                raise _refusal(text, f"takes one {modifier} for the {said[kind][0]}, got {_listed(values)}")
            if modifier == "pattern" and kind != "object":
                raise _refusal(text, f"knows no {values[0]} {said[kind][0]}: the pattern is for the object")
    first = lambda kind, modifier: next(iter(said[kind][1].get(modifier, ())), None)  # noqa: E731
    caption = Caption(
        said["object"][0],
        first("object", "colour"),
        first("object", "pattern"),
        said["worn"][0],
        first("worn", "colour"),
        said["support"][0],
        first("support", "colour"),
    )
    if caption.worn and not OBJECTS[caption.name].wears:
        able = [name for name, word in OBJECTS.items() if word.wears]
        raise _refusal(
            text, f"cannot dress {_phrase(caption.name)}; these wear a {_listed(WORN, 'or')}: {', '.join(able)}"
        )
    return caption


def canonical(text):
    """The sentence as the prior was trained on it: "A photo of a red teddy bear" -> "a red bear"."""
    return str(parse(text))


def overview():
    """Everything that is understood, as text for a terminal 80 columns wide."""
    kinds = dict.fromkeys(word.kind for word in OBJECTS.values())
    rows = [(kind, [name for name, word in OBJECTS.items() if word.kind == kind]) for kind in kinds]
    rows += [("colours", COLOURS), ("patterns", PATTERNS), ("to wear", WORN), ("to stand on", SUPPORTS)]
    rows += [("who wears", [name for name, word in OBJECTS.items() if word.wears])]
    rows += [("also said", [f"{said} ({word})" for said, (_, word) in MEANINGS.items() if said != word])]
    return "\n".join(
        [
            "Toybox understands",
            "  a [colour] [pattern] OBJECT [wearing a [colour] hat] [on a [colour] box]",
            "",
            *(
                textwrap.fill(", ".join(words), 80, initial_indent=f"{title:12}", subsequent_indent=" " * 12)
                for title, words in rows
            ),
            "",
            *(f'python main.py --text "{text}" --workspace out' for text in EXAMPLES),
        ]
    )


def _read(words):
    """Nouns with the modifiers before them, and unknown words. -> [(kind, word, {modifier: [words]})], [words]"""
    found, unknown, waiting, i = [], [], {}, 0

    def give_to_object():  # "a spaceship, blue, on a box"
        modifiers = next((modifiers for kind, _, modifiers in found if kind == "object"), None)
        if modifiers is not None:
            for modifier, values in waiting.items():
                modifiers.setdefault(modifier, []).extend(values)
            waiting.clear()

    while i < len(words):
        length = next((n for n in range(LONGEST, 0, -1) if " ".join(words[i : i + n]) in MEANINGS), 0)
        if length:
            kind, word = MEANINGS[" ".join(words[i : i + length])]
            if kind in ("colour", "pattern"):
                waiting.setdefault(kind, []).append(word)
            else:
                found.append((kind, word, dict(waiting)))
                waiting.clear()
        elif words[i] == "," or words[i] in LINKS:
            give_to_object()
        elif words[i] not in FILLERS:
            unknown.append(words[i])
        i += max(length, 1)
    give_to_object()
    return found, unknown


def _nearest(unknown, has_object):
    """What the words may have been meant to be: "; nearest: frog", or nothing."""
    wanted = ("colour", "pattern", "worn", "support") if has_object else ("object",)
    known = {phrase: word for phrase, (kind, word) in MEANINGS.items() if kind in wanted}
    near = [match for word in unknown for match in difflib.get_close_matches(word, known, 3, SPELT_ALIKE)]
    near += [KINDRED[word] for word in unknown if word in KINDRED]
    return f"; nearest: {', '.join(dict.fromkeys(near))}" if near else ""


def _refusal(text, reason):
    return ValueError(
        f"--text {text!r}: the embedded prior (Toybox) {reason}. `python main.py words` lists what it understands; "
        "for any other words use --guidance SD (needs a GPU and its weights)"
    )


def _listed(words, last="and", spelt=str):
    *rest, final = map(spelt, words)
    return f"{', '.join(rest)} {last} {final}" if rest else final
