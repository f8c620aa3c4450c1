"""Sentences of the small world: what the prior's captions say, and what a user's sentence asks for.

    a [colour] [pattern] object [wearing a [colour] hat] [on a [colour] box]

Imports nothing heavy.
"""

from __future__ import annotations

from dataclasses import dataclass

from toybox.lexicon import lexicon, nearest
from toybox.words import COLOURS, FILLERS, LINKS, MEANINGS, OBJECTS, WORN, article, words_of

LONGEST = max(len(phrase.split()) for phrase in MEANINGS)  # words of a phrase
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


def parse(text, known=None):
    """What a sentence asks for.

    Args:
        known: The words of the prior (`lexicon.known_to`); None: all of the small world.

    Returns:
        Caption

    Raises:
        ValueError: a word is unknown, there is not exactly one object, or it cannot be as asked; under five lines.
    """
    meanings = lexicon(known)
    found, unknown = _read(_phrases(words_of(text), meanings))
    of = lambda kind: [word for what, word, _ in found if what == kind]  # noqa: E731
    if unknown:
        raise _refusal(text, _not_known(unknown, meanings, bool(of("object"))))
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
        able = ", ".join(name for name, word in OBJECTS.items() if word.wears and name in meanings)
        raise _refusal(text, f"cannot dress {_phrase(caption.name)}; these wear a {_listed(WORN, 'or')}: {able}")
    return caption


def canonical(text, known=None):
    """The sentence as the prior was trained on it: "A photo of a red teddy bear" -> "a red bear"."""
    return str(parse(text, known))


def negative(text, known=None):
    """What must not show, in the words of the captions: "a kitten on a red box" -> "cat red box".

    Args:
        known: As for `parse`.

    Raises:
        ValueError: a word is unknown, or stands for nothing.
    """
    meanings = lexicon(known)
    phrases = list(_phrases(words_of(text), meanings))
    unknown = [word for kind, word in phrases if kind is None]
    if unknown:
        raise _refusal(text, _not_known(unknown, meanings, True), "--negative")
    said = [word for kind, word in phrases if kind != "link"]
    if text.strip() and not said:
        raise _refusal(text, "needs things, colours or patterns that must not show", "--negative")
    return " ".join(said)


def _phrases(words, meanings):
    """The longest phrases that mean something, a comma or a word like "on" as "link"; None: not known. -> (kind, word)

    Fillers are passed over.
    """
    i = 0
    while i < len(words):
        length = next((n for n in range(LONGEST, 0, -1) if " ".join(words[i : i + n]) in meanings), 0)
        if length:
            yield meanings[" ".join(words[i : i + length])]
        elif words[i] == "," or words[i] in LINKS:
            yield "link", words[i]
        elif words[i] not in FILLERS:
            yield None, words[i]
        i += max(length, 1)


def _read(phrases):
    """Nouns with the modifiers before them, and unknown words. -> [(kind, word, {modifier: [words]})], [words]"""
    found, unknown, waiting = [], [], {}

    def give_to_object():  # "a spaceship, blue, on a box"
        modifiers = next((modifiers for kind, _, modifiers in found if kind == "object"), None)
        if modifiers is not None:
            for modifier, values in waiting.items():
                modifiers.setdefault(modifier, []).extend(values)
            waiting.clear()

    for kind, word in phrases:
        if kind is None:
            unknown.append(word)
        elif kind == "link":
            give_to_object()
        elif kind in ("colour", "pattern"):
            waiting.setdefault(kind, []).append(word)
        else:
            found.append((kind, word, dict(waiting)))
            waiting.clear()
    give_to_object()
    return found, unknown


def _not_known(unknown, meanings, has_object):
    near = nearest(unknown, meanings, has_object)
    hint = f"; nearest: {', '.join(near)}" if near else ""
    return f"does not know {_listed(unknown, 'or', repr)}{hint}"


def _refusal(text, reason, option="--text"):
    return ValueError(
        f"{option} {text!r}: the embedded prior (Toybox) {reason}. `python main.py words` lists what it understands; "
        "for any other words use --guidance SD (needs a GPU and its weights)"
    )


def _listed(words, last="and", spelt=str):
    *rest, final = map(spelt, words)
    return f"{', '.join(rest)} {last} {final}" if rest else final
