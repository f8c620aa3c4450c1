"""scripts/train_judge.py: a whole training of a second, and what its pictures are made of."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch.testing import assert_close

from scripting import load_script
from toybox import judge
from toybox.judge import HEADS


@pytest.fixture(scope="module")
def script():
    return load_script("train_judge")


def test_a_short_training_leaves_a_judge_and_goes_on_where_it_was(script, tmp_path, monkeypatch):
    def train(minutes):
        words = (
            f"x --work {tmp_path} --out {tmp_path / 'judge.safetensors'} --solids 3 --tests 1 --batch 4 --device cpu"
        )
        monkeypatch.setattr(sys, "argv", [*words.split(), "--minutes", str(minutes)])
        script.main()
        with safe_open(tmp_path / "judge.safetensors", "pt") as file:
            return file.metadata()

    first = train(0.005)
    made = (tmp_path / "judge-3-0.npz").stat().st_mtime
    spent = torch.load(tmp_path / "judge.pt")["spent"]
    again = train(spent / 60 + 0.005)
    assert int(again["steps"]) > int(first["steps"]) > 0 and first["pictures"] == "6"
    assert (tmp_path / "judge-3-0.npz").stat().st_mtime == made
    assert torch.load(tmp_path / "judge.pt")["spent"] > spent
    assert (
        judge.load(tmp_path / "judge.safetensors")(torch.zeros(1, 3, judge.SIZE, judge.SIZE))["name"].isfinite().all()
    )


def test_pictures_follow_from_their_seed_and_say_what_they_show(script):
    one, again, other = script.make_one(3, 0), script.make_one(3, 0), script.make_one(4, 0)
    assert all((one[key] == again[key]).all() for key in one) and not (one["layers"] == other["layers"]).all()
    assert one["layers"].shape == (2, 5, judge.SIZE, judge.SIZE) and one["layers"].dtype == np.uint8
    for head, answers in HEADS.items():
        if head == "view":
            assert set(one[head].sum(1).round(5)) <= {0.0, 1.0}
        else:
            assert one[head].shape == (2,) and (-1 <= one[head]).all() and (one[head] < len(answers)).all()
    assert (one["name"] >= 0).all() and (one["colour"] >= 0).all() and (one["pattern"] >= 0).all()


def test_a_plain_picture_is_its_layers_over_one_background(script):
    layers = torch.zeros(2, 5, judge.SIZE, judge.SIZE, dtype=torch.uint8)
    layers[:, 0, :32], layers[:, 3, :32] = 204, 255  # the upper half is red
    layers[:, 0, 32], layers[:, 3, 32] = 102, 127  # and half a row more
    made = script.compose(layers, torch.Generator().manual_seed(0), harsh=False)
    behind = made[:, :, -1, -1]
    assert_close(made[:, :, 33:], behind[:, :, None, None].expand(2, 3, 31, 64))
    assert_close(made[:, :, 0, 0], torch.tensor([[0.8, 0, 0]] * 2))
    assert_close(made[:, :, 32, 0], torch.tensor([0.4, 0, 0]) + (1 - 127 / 255) * behind)
    assert not torch.equal(behind[0], behind[1])


def test_a_harsh_picture_is_a_picture_and_keeps_the_colour_about(script):
    layers = torch.zeros(64, 5, judge.SIZE, judge.SIZE, dtype=torch.uint8)
    layers[:, 0], layers[:, 3], layers[:, 4] = 204, 255, 255  # red everywhere, lit everywhere
    made = script.compose(layers, torch.Generator().manual_seed(0), harsh=True)
    assert made.shape == (64, 3, 64, 64) and made.min() >= 0 and made.max() <= 1
    middle = made[:, :, 16:48, 16:48].mean((2, 3))
    assert (middle[:, 0] > 0.6).all() and (middle[:, 1:] < 0.3).all()


def test_the_loss_counts_only_what_has_an_answer(script):
    found = {head: torch.full((2, len(a)), -2.0) for head, a in HEADS.items()}
    data = {head: torch.tensor([0, -1]) for head in HEADS} | {"view": torch.tensor([[0.5, 0.5, 0, 0], [0, 0, 0, 0]])}
    assert float(script.loss_of(found, data, torch.tensor([0, 1]))) == pytest.approx(len(HEADS) * 2 / 2)
