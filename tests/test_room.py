"""nerf/renderers/room.py: rows for what is not counted yet, and the steps that had too few of them."""

from __future__ import annotations

from unittest import mock

import pytest
import torch

import scenes
from nerf.renderers import raymarch
from nerf.renderers.room import GRAIN, REMEMBERED, SLACK, Room
from renderer_case import packed
from tiny_run import weights


@pytest.fixture
def room(monkeypatch):
    """One whose counts lie on the CPU."""
    monkeypatch.setattr(torch.cuda, "Event", mock.Mock)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    return Room()


def had(room, needed, rows):
    room.need(torch.tensor(needed), rows)
    return room.was_enough()


def test_the_first_time_is_counted_and_then_there_is_a_little_more(room):
    assert room.rows() is None and had(room, 3 * GRAIN, None)
    assert room.rows() == 4 * GRAIN and had(room, 4 * GRAIN, 4 * GRAIN)
    assert room.rows() / (4 * GRAIN) >= SLACK


def test_what_did_not_fit_fits_the_next_time(room):
    assert had(room, 10, None) and room.rows() == GRAIN
    assert not had(room, GRAIN + 1, GRAIN)
    assert room.rows() > GRAIN and had(room, GRAIN + 1, room.rows())


def test_one_of_several_that_did_not_fit_counts(room):
    room.need(torch.tensor(7), 6), room.need(torch.tensor(5), 6)
    assert not room.was_enough()
    assert room.was_enough()  # of nothing


def test_even_where_nothing_is_needed_there_are_rows(room):
    assert had(room, 0, None) and room.rows() == GRAIN


def test_what_was_needed_long_ago_is_forgotten(room):
    had(room, 50 * GRAIN, None)
    for _ in range(REMEMBERED - 1):
        had(room, 5, GRAIN)
    assert room.rows() > 50 * GRAIN
    had(room, 5, GRAIN)
    assert room.rows() == GRAIN


@pytest.mark.parametrize("options", [{}, {"lambda_tv": 0.1, "batch_size": 2, "albedo_iter_ratio": 0.0}])
def test_a_step_that_had_no_room_is_done_again_and_ends_the_same(make, options):
    runs = [make(iters=5, update_extra_interval=2, **options) for _ in range(2)]
    answers = iter([True, False, True, False, False, True, True, True, False])  # to 5 steps, and one is left
    runs[1].renderer.had_room = lambda: next(answers)
    for made in runs:
        for _ in range(4):
            made.train_step()
    expected, actual = map(weights, runs)
    assert list(answers) == [True, False] and all(torch.equal(actual[name], expected[name]) for name in expected)


def test_a_picture_without_samples_has_no_normals_whatever_was_needed_before(room, monkeypatch):
    """Of a scene that has gone empty, where the device counts."""
    monkeypatch.setattr(raymarch, "_guesses", lambda tensor: True)
    had(room, 5, None)
    renderer = packed(scenes.Ball())
    renderer._normals = room
    chosen = renderer._heavy(torch.zeros(0))
    assert renderer._normals_of(chosen, torch.zeros(0, 3)).shape == (0, 3)
