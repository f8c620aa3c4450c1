"""The lists of prompts: their sizes, that they share nothing, and that the training never saw a third of the report."""

from __future__ import annotations

import pytest

from toybox.captions import canonical, is_held_out, parse
from toybox.prompts import ALL, DEVELOPMENT, LISTS, OBJECTS12, REPORT
from toybox.words import OBJECTS, PATTERNS, SUPPORTS, WORN


def test_ten_of_the_thirty_reported_prompts_are_held_out():
    assert len(REPORT) == len(set(REPORT)) == 30
    assert sum(is_held_out(parse(text)) for text in REPORT) == 10


def test_fifteen_prompts_for_development_which_none_is_reported_on():
    assert len(DEVELOPMENT) == len(set(DEVELOPMENT)) == 15 and "a frog" in DEVELOPMENT
    assert not set(REPORT) & ({*DEVELOPMENT} | {*OBJECTS12})
    assert not any(is_held_out(parse(text)) for text in DEVELOPMENT)


def test_the_twelve_objects_of_earlier_figures_are_still_those():
    names = "frog mushroom car duck chair bear snowman hamburger penguin rocket house tree".split()
    assert [parse(text).name for text in OBJECTS12] == names


@pytest.mark.parametrize("text", ALL)
def test_a_prompt_is_the_sentence_of_the_training(text):
    assert canonical(text) == text


@pytest.mark.parametrize("prompts", [DEVELOPMENT, REPORT], ids=["development", "report"])
def test_every_kind_of_object_and_of_word_is_asked_for(prompts):
    said = [parse(text) for text in prompts]
    assert {OBJECTS[each.name].kind for each in said} == {word.kind for word in OBJECTS.values()}
    assert all(any(getattr(each, word) for each in said) for word in ("colour", "pattern", "worn", "support"))
    assert any(each == type(each)(each.name) for each in said)  # and a name alone


def test_the_report_asks_for_every_pattern_thing_to_wear_and_support():
    said = [parse(text) for text in REPORT]
    assert {each.pattern for each in said} - {None} == set(PATTERNS)
    assert {each.worn for each in said} - {None} == set(WORN)
    assert {each.support for each in said} - {None} == set(SUPPORTS)


def test_all_holds_every_prompt_once():
    assert len(ALL) == len(set(ALL)) and set(ALL) == {text for prompts in LISTS.values() for text in prompts}
