"""Sentences of the small world: what is understood, how the prior is told, and what is said of the rest."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

from guidance.prompts import VIEW_WORDS, view_prompts
from toybox import lexicon, pictures, words
from toybox.captions import Caption, canonical, is_held_out, negative, parse
from toybox.words import COLOURS, KINDRED, MEANINGS, OBJECTS, PATTERNS, SUPPORTS, WORN, vocabulary, words_of


@pytest.mark.parametrize(
    "text, caption",
    [
        ("a frog", Caption("frog")),
        ("A DSLR photo of a Green Frog", Caption("frog", "green")),
        ("the red toad", Caption("frog", "red")),
        ("teddy bear", Caption("bear")),
        ("a teddy", Caption("bear")),
        ("an orange cheeseburger.", Caption("hamburger", "orange")),
        ("a 3D model of a spaceship, blue", Caption("rocket", "blue")),
        ("a cute little cottage", Caption("house")),
        ("an ice cream", Caption("ice cream")),
        ("a gray polka dot ice cream cone", Caption("ice cream", "grey", "spotted")),
        ("a frog wearing a red top hat", Caption("frog", worn="hat", worn_colour="red")),
        ("a cat with a scarf", Caption("cat", worn="scarf")),
        ("a duck on a blue box", Caption("duck", support="box", support_colour="blue")),
        ("a bear sitting on top of a pink pillow", Caption("bear", support="cushion", support_colour="pink")),
        (
            "a red spotted frog wearing a blue hat on a green box",
            Caption("frog", "red", "spotted", "hat", "blue", "box", "green"),
        ),
    ],
)
def test_plain_sentences_are_understood(text, caption):
    assert parse(text) == caption


@pytest.mark.parametrize(
    "text, canon",
    [
        ("A photo of a red teddy bear", "a red bear"),
        ("orange toad", "an orange frog"),
        ("a burger", "a hamburger"),
        ("the car", "a car"),
        ("kitty, stripey, in a crown", "a striped cat wearing a crown"),
    ],
)
def test_the_canonical_sentence_is_a_caption_of_the_training(text, canon):
    assert canonical(text) == canon


def test_every_caption_means_what_it_says():
    rng = np.random.default_rng(0)
    made = [Caption(name, colour) for name in OBJECTS for colour in (None, *COLOURS)]
    made += [pictures.random_caption(rng, held_out=True) for _ in range(500)]
    for caption in made:
        assert parse(str(caption)) == caption
        assert canonical(str(caption)) == str(caption)


@pytest.mark.parametrize(
    "text, parts",
    [
        ("a forg", ["does not know 'forg'; nearest: frog."]),
        ("a gren frog", ["does not know 'gren'; nearest: green"]),
        ("a gree frog", ["nearest: green, "]),  # the object is there: not a tree
        ("a dragon with wings", ["'dragon' or 'wings'; nearest: dinosaur"]),
        ("a chiar", ["nearest: ", "chair"]),
        ("a zzyzx", ["does not know 'zzyzx'. "]),  # nothing is near, and nothing is made up
        ("a frog, a car", ["one object", "frog and car"]),
        ("a red blue frog", ["one colour for the frog, got red and blue"]),
        ("a frog in a red and blue hat", ["one colour for the hat, got red and blue"]),
        ("a spotted striped frog", ["one pattern for the frog"]),
        ("a frog in a striped hat", ["knows no striped hat"]),
        ("a green", ["needs an object"]),
        ("a red hat", ["needs an object"]),
        ("a frog with a hat and a crown", ["one thing to wear, got hat and crown"]),
        ("a frog on a box on a plate", ["one thing to stand on, got box and plate"]),
        ("a mushroom wearing a hat", ["cannot dress a mushroom", "frog", "robot"]),
        (
            "a \u043a\u0440\u0430\u0441\u043d\u044b\u0439 frog",
            ["does not know '\u043a\u0440\u0430\u0441\u043d\u044b\u0439'"],
        ),
        ("\u9752\u86d9", ["does not know '\u9752\u86d9'"]),
        ("a fr\u00f6g", ["does not know 'fr\u00f6g'; nearest: frog"]),
    ],
)
def test_what_is_not_understood_is_a_short_message_with_the_way_out(text, parts):
    with pytest.raises(ValueError) as caught:
        parse(text)
    line = str(caught.value)
    assert "\n" not in line and line.startswith(f"--text {text!r}")
    assert len(line) < 5 * 80  # lines of a terminal
    for part in [*parts, "python main.py words", "--guidance SD"]:
        assert part in line


@pytest.mark.parametrize(
    "text, words", [("", ""), ("a kitten on a red box", "cat red box"), ("A hat, spotted", "hat spotted")]
)
def test_what_must_not_show_is_said_in_the_words_of_the_captions(text, words):
    assert negative(text) == words


@pytest.mark.parametrize("text, reason", [("blurry, ugly", "does not know 'blurry' or 'ugly'"), ("a photo", "needs")])
def test_what_must_not_show_has_to_be_understood(text, reason):
    with pytest.raises(ValueError, match=reason) as caught:
        negative(text)
    assert str(caught.value).startswith(f"--negative {text!r}: ")


def test_the_nearest_in_meaning_are_words_that_are_known_and_not_the_word_itself():
    assert set(KINDRED.values()) <= set(MEANINGS)
    assert not set(KINDRED) & set(MEANINGS) and not set(KINDRED) & words.FILLERS


def test_the_overview_names_every_word_and_its_examples_are_understood():
    overview = lexicon.overview()
    flat = " ".join(overview.split())
    for word in MEANINGS:
        assert word in flat
    assert all(len(line) <= 80 for line in overview.splitlines() if not line.startswith("python"))
    for example in lexicon.EXAMPLES:
        assert parse(example) and f'python main.py --text "{example}" --workspace out' in overview


def test_a_prior_is_asked_for_the_words_of_its_own_tokenizer_only(tmp_path):
    (tmp_path / "tokenizer").mkdir()
    words = "a frog cat red ice on in view hat".split()
    vocabulary = {token: i for i, token in enumerate([*(f"{word}</w>" for word in words), "dog", "box"])}
    (tmp_path / "tokenizer" / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}}))
    known = lexicon.known_to(tmp_path)
    assert known == set(words)  # the pieces "dog" and "box" are no words
    assert parse("a red kitten in a hat", known) == Caption("cat", "red", worn="hat")
    for text, missing in (("a dog", "'dog'"), ("a blue frog", "'blue'"), ("an ice cream", "'ice' or 'cream'")):
        with pytest.raises(ValueError, match=f"does not know {missing}"):
            parse(text, known)
    overview = lexicon.overview(known)
    assert "kitten (cat)" in overview and "wearing" in overview
    for absent in ("dog", "spotted", "plate", "cushion", "robot"):
        assert absent not in overview
    assert lexicon.known_to(tmp_path / "elsewhere") is None
    assert not any(map(lexicon.is_sided, (None, known))) and lexicon.is_sided(known | {"left"})


def test_at_least_fifteen_percent_of_the_pairs_are_held_out_and_every_word_is_left_with_some():
    colours = {(o, c): is_held_out(Caption(o, c)) for o, c in itertools.product(OBJECTS, COLOURS)}
    worn = {(o, w): is_held_out(Caption(o, worn=w)) for o, w in itertools.product(OBJECTS, WORN) if OBJECTS[o].wears}
    for pairs in (colours, worn):
        assert 0.15 <= np.mean(list(pairs.values())) <= 0.2
        for position in (0, 1):
            for word in {pair[position] for pair in pairs}:
                assert not all(held for pair, held in pairs.items() if pair[position] == word)


def test_a_training_caption_never_holds_a_pair_that_is_held_out_and_says_everything_else():
    rng = np.random.default_rng(0)
    made = [pictures.random_caption(rng) for _ in range(3000)]
    assert not any(map(is_held_out, made))
    assert any(is_held_out(pictures.random_caption(rng, held_out=True)) for _ in range(100))
    assert {caption.name for caption in made} == set(OBJECTS)
    for field, values in (("colour", COLOURS), ("pattern", PATTERNS), ("worn", WORN), ("worn_colour", COLOURS)):
        assert {getattr(caption, field) for caption in made} == {None, *values}
    assert {caption.support for caption in made} == {None, *SUPPORTS}
    assert all(OBJECTS[caption.name].wears for caption in made if caption.worn)
    assert all(caption.worn for caption in made if caption.worn_colour)


def test_every_word_of_every_prompt_is_in_the_vocabulary():
    known, rng = set(vocabulary()), np.random.default_rng(0)
    made = [str(pictures.random_caption(rng, held_out=True)) for _ in range(1000)]
    for text in [*MEANINGS, *made, *words.PHRASINGS, *view_prompts("a frog"), *VIEW_WORDS]:
        assert set(words_of(text)) <= known
