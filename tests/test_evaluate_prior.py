"""scripts/evaluate_prior.py: what is asked, what counts as right, and the quality of an autoencoder."""

from __future__ import annotations

import math
from collections import Counter
from types import SimpleNamespace

import pytest
import torch

from guidance.prompts import view_weights
from scripting import load_script
from toybox.captions import parse
from toybox.judge import HEADS
from toybox.prompts import REPORT
from toybox.words import VIEWS


@pytest.fixture(scope="module")
def script():
    return load_script("evaluate_prior")


def says(**words):
    """An answer that is sure of one word of every head."""
    found = {}
    for head, answers in HEADS.items():
        logs = torch.full((1, len(answers)), -9.0)
        logs[0, answers.index(words.get(head, answers[0]))] = -0.1
        found[head] = logs
    return found


def test_every_prompt_is_asked_from_every_view_equally_often(script):
    counts = Counter((str(caption), view) for caption, view in script.wanted(REPORT, 250))
    assert set(counts) == {(text, view) for text in REPORT for view in VIEWS}
    assert set(counts.values()) == {2, 3}


def test_answers_are_counted_by_view_and_by_object_the_worst_first(script):
    texts = ("a cat", "back"), ("a dog wearing a hat", "back"), ("a red cat", "front"), ("a mushroom", "front")
    asked = [(parse(text), view) for text, view in texts]
    parts = [says(name="cat", view="back"), *[says(name="cat", view="front")] * 2, says(name="mushroom")]
    found = script.details(asked, {head: torch.cat([part[head] for part in parts]) for head in HEADS})
    pairs = {head: [list(shares.items()) for shares in part.values()] for head, part in found.items()}
    assert pairs == {
        "name": [[("back", 0.5), ("front", 1.0)], [("dog", 0.0), ("cat", 1.0), ("mushroom", 1.0)]],
        "worn": [[("back", 0.0)], [("dog", 0.0)]],
        "view": [[("back", 0.5), ("front", 1.0)], [("dog", 0.0), ("cat", 1.0)]],  # a mushroom has no front
    }


def test_shares_count_the_samples_that_were_asked_for_a_word(script):
    asked = [(parse("a red cat wearing a crown"), "back"), (parse("a cat"), "side"), (parse("a mushroom"), "front")]
    parts = [
        says(name="cat", colour="red", worn="hat", worn_colour="yellow", view="back"),
        says(name="dog", colour="orange", support="box", view="front"),
        says(name="mushroom", colour="red", view="overhead"),
    ]
    found = script.shares(asked, {head: torch.cat([part[head] for part in parts]) for head in HEADS})
    assert found == {
        "name": 0.6667,
        "colour": 1.0,  # the others' colour is not said
        "pattern": None,
        "worn": 0.0,
        "worn_colour": None,
        "support": None,
        "support_colour": None,
        "view": 0.5,  # a mushroom has no front
        "nothing_else": 0.6667,  # the dog's box
        "r_precision": 0.3333,
    }


def test_the_truth_is_shown_as_it_is_asked_for(script, monkeypatch):
    asked, seen = script.wanted(["a duck", "a red car"], 8), []

    class Spy:
        def __call__(self, pictures):
            assert pictures.shape == (1, 3, 64, 64) and 0 <= pictures.min() < pictures.max() <= 1
            return says(name=asked[len(seen) - 1][0].name)

    real = script.pictures.show

    def show(solid, azimuth, elevation, rng):
        seen.append((azimuth.item(), elevation.item()))
        return real(solid, azimuth, elevation, rng)

    monkeypatch.setattr(script.pictures, "show", show)
    monkeypatch.setattr(script.judge, "load", lambda: Spy())
    answers = script.show(asked, 0)
    assert script.shares(asked, answers)["name"] == 1.0
    for (_, view), (azimuth, elevation) in zip(asked, seen, strict=True):
        weights = view_weights(torch.tensor([azimuth]), torch.tensor([elevation]), angle_front=90)[0]
        assert VIEWS[int(weights.argmax())] == view and weights.amax() > 0.9


def test_psnr_is_that_of_the_error_that_was_made(script, monkeypatch):
    grey = torch.full((1, 3, 8, 8), 128, dtype=torch.uint8).numpy()
    monkeypatch.setattr(script.pictures, "sample", lambda *args, **options: SimpleNamespace(images=grey))
    vae = SimpleNamespace(  # off by 0.2 of [-1, 1], which is 0.1 of [0, 1]
        encode=lambda x: SimpleNamespace(latents=x + 0.2), decode=lambda z: SimpleNamespace(sample=z)
    )
    found = script.autoencoder_psnr(vae, SimpleNamespace(pictures=2, seed=0, device="cpu"))
    assert found == pytest.approx(-20 * math.log10(0.1), abs=1e-3)
