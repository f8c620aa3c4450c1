"""Which words a prior knows, what they mean, and what is near to a word it does not know. Imports nothing heavy."""

from __future__ import annotations

import difflib
import json
import textwrap
from pathlib import Path

from toybox.words import COLOURS, KINDRED, MEANINGS, OBJECTS, PATTERNS, SUPPORTS, WORN, words_of

SPELT_ALIKE = 0.7  # difflib's ratio from which a word may be a misspelling of another: one slip in four letters
END = "</w>"  # of a token that ends a word
EXAMPLES = ("a frog", "a striped cat wearing a crown", "a photo of a blue teddy bear on a yellow cushion")


def known_to(prior):
    """The words that are one token of a prior's tokenizer, or None where its folder holds no tokenizer.

    Args:
        prior: Folder in the diffusers layout.
    """
    path = Path(prior) / "tokenizer" / "tokenizer.json"
    if not path.is_file():
        return None
    vocabulary = json.loads(path.read_text())["model"]["vocab"]
    return frozenset(token.removesuffix(END) for token in vocabulary if token.endswith(END))


def is_sided(known):
    """Whether a prior that knows these words was taught to tell the left side of a thing from the right."""
    return known is not None and "left" in known


def lexicon(known=None):
    """Words and phrases -> (what they are, how captions say it), of those whose caption is `known` (None: all)."""
    return {
        phrase: (kind, word)
        for phrase, (kind, word) in MEANINGS.items()
        if known is None or all(part in known for part in word.split())
    }


def nearest(unknown, meanings, has_object):
    """What words may have been meant to be, of what the sentence lacks: by spelling, then by meaning."""
    wanted = ("colour", "pattern", "worn", "support") if has_object else ("object",)
    known = [phrase for phrase, (kind, _) in meanings.items() if kind in wanted]
    near = [match for word in unknown for match in difflib.get_close_matches(word, known, 3, SPELT_ALIKE)]
    near += [KINDRED[word] for word in unknown if KINDRED.get(word) in meanings]
    return list(dict.fromkeys(near))


def overview(known=None):
    """Everything that is understood, as text for a terminal 80 columns wide."""
    meanings = lexicon(known)
    of = lambda words: [word for word in words if word in meanings]  # noqa: E731
    kinds = dict.fromkeys(word.kind for word in OBJECTS.values())
    rows = [(kind, of(name for name, word in OBJECTS.items() if word.kind == kind)) for kind in kinds]
    rows += [("colours", of(COLOURS)), ("patterns", of(PATTERNS))]
    rows += [("to wear", of(WORN)), ("who wears", of(n for n, word in OBJECTS.items() if word.wears and of(WORN)))]
    rows += [("to stand on", of(SUPPORTS))]
    rows += [("also said", [f"{said} ({word})" for said, (_, word) in meanings.items() if said != word])]
    examples = [text for text in EXAMPLES if known is None or known.issuperset(words_of(text))]
    extras = " [wearing a [colour] hat]" * bool(of(WORN)) + " [on a [colour] box]" * bool(of(SUPPORTS))
    return "\n".join(
        [
            "Toybox understands",
            f"  a [colour]{' [pattern]' * bool(of(PATTERNS))} OBJECT{extras}",
            "",
            *(
                textwrap.fill(", ".join(words), 80, initial_indent=f"{title:12}", subsequent_indent=" " * 12)
                for title, words in rows
                if words
            ),
            "",
            *(f'python main.py --text "{text}" --workspace out' for text in examples),
        ]
    )
