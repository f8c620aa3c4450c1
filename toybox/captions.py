"""Sentences of the small world: what the prior's captions say, and what a user's sentence asks for.

    a [colour] [pattern] object [wearing a [colour] hat] [on a [colour] box]

Imports nothing heavy.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from toybox.words import COLOURS, FILLERS, LINKS, MEANINGS, OBJECTS, PATTERNS, SUPPORTS, WORN, article, words_of

SPELT_ALIKE = 0.7  # difflib's ratio from which a word may be a misspelling of another: one slip in four letters
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
        several = f"makes one object at a time, got {_listed(of('object'))}"
        raise _refusal(text, several if of("object") else "needs an object")
    said = {}
    for kind in ("object", "worn", "support"):
        nouns = [(word, modifiers) for what, word, modifiers in found if what == kind]
        if len(nouns) > 1:
            raise _refusal(text, f"takes one thing {'to wear' if kind == 'worn' else 'to stand on'}, got {_listed(of(kind))}")
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
        raise _refusal(text, f"cannot dress {_phrase(caption.name)}; these wear a {_listed(WORN, 'or')}: {', '.join(able)}")
    return caption


def canonical(text):
    """The sentence as the prior was trained on it: "A photo of a red teddy bear" -> "a red bear"."""
    return str(parse(text))


def _read(words):
    """Nouns with the modifiers before them, and unknown words. -> [(kind, word, {modifier: [words]})], [words]"""
    found, unknown, waiting, i = [], [], {}, 0
    while i < len(words):
        length = next((n for n in range(LONGEST, 0, -1) if " ".join(words[i : i + n]) in MEANINGS), 0)
        if not length:
            if words[i] not in FILLERS and words[i] not in LINKS:
                unknown.append(words[i])
            i += 1
            continue
        kind, word = MEANINGS[" ".join(words[i : i + length])]
        i += length
        if kind in ("colour", "pattern"):
            waiting.setdefault(kind, []).append(word)
        else:
            found.append((kind, word, waiting))
            waiting = {}
    objects = [modifiers for kind, _, modifiers in found if kind == "object"]
    for modifier, values in waiting.items():  # "a spaceship, blue"
        if objects:
            objects[-1].setdefault(modifier, []).extend(values)
    return found, unknown


def _nearest(unknown, has_object):
    """What the words may have been meant to be: "; nearest: frog", or nothing."""
    wanted = ("colour", "pattern", "worn", "support") if has_object else ("object",)
    known = {phrase: word for phrase, (kind, word) in MEANINGS.items() if kind in wanted}
    near = [match for word in unknown for match in difflib.get_close_matches(word, known, 3, SPELT_ALIKE)]
    near += [KINDRED[word] for word in unknown if word in KINDRED]
    return f"; nearest: {', '.join(dict.fromkeys(near))}" if near else ""


KINDRED = {  # words that users try, and the nearest in meaning that Toybox has
    **dict.fromkeys(("dragon", "lizard", "crocodile", "alligator", "monster", "trex"), "dinosaur"),
    **dict.fromkeys(("lion", "tiger", "leopard", "cheetah", "panther"), "cat"),
    **dict.fromkeys(("wolf", "fox", "corgi", "poodle"), "dog"),
    **dict.fromkeys(("panda", "koala", "monkey", "gorilla"), "bear"),
    **dict.fromkeys(("rat", "hamster", "squirrel", "hedgehog"), "mouse"),
    **dict.fromkeys(("goat", "cow", "horse", "pony", "unicorn", "donkey"), "sheep"),
    **dict.fromkeys(("bird", "chick", "chicken", "hen", "goose", "swan"), "duck"),
    **dict.fromkeys(("eagle", "parrot", "raven"), "owl"),
    **dict.fromkeys(("shark", "dolphin"), "whale"),
    **dict.fromkeys(("squid", "jellyfish", "crab"), "octopus"),
    **dict.fromkeys(("butterfly", "ladybug", "insect", "beetle", "wasp"), "bee"),
    **dict.fromkeys(("ufo", "spacecraft", "shuttle"), "rocket"),
    **dict.fromkeys(("jet", "aircraft"), "airplane"),
    **dict.fromkeys(("van", "taxi", "jeep", "vehicle"), "car"),
    **dict.fromkeys(("tower", "fortress", "palace"), "castle"),
    **dict.fromkeys(("home", "hut", "cabin", "building", "barn"), "house"),
    **dict.fromkeys(("rose", "tulip", "sunflower"), "flower"),
    **dict.fromkeys(("sandwich", "hotdog", "pizza"), "hamburger"),
    **dict.fromkeys(("sofa", "couch", "bench", "stool", "armchair", "throne"), "chair"),
    **dict.fromkeys(("kettle",), "teapot"),
    **dict.fromkeys(("man", "person", "human", "astronaut", "knight"), "robot"),
    **dict.fromkeys(("helmet", "bonnet", "beanie", "sombrero"), "hat"),
    **dict.fromkeys(("tie", "necklace", "shawl"), "scarf"),
    **dict.fromkeys(("silver", "metal", "stone"), "grey"),
    **dict.fromkeys(("gold", "golden"), "yellow"),
    **dict.fromkeys(("crimson", "scarlet"), "red"),
}


def _refusal(text, reason):
    return ValueError(
        f"--text {text!r}: the embedded prior (Toybox) {reason}. `python main.py words` lists the "
        f"{len(OBJECTS)} objects, {len(COLOURS)} colours, {_listed(PATTERNS)}, {', '.join([*WORN, *SUPPORTS])} that it "
        "understands; for any other words use --guidance SD (needs a GPU and its weights)"
    )


def _listed(words, last="and", spelt=str):
    *rest, final = map(spelt, words)
    return f"{', '.join(rest)} {last} {final}" if rest else final
