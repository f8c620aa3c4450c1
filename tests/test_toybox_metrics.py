"""The measure of right and wrong: the truth itself is perfect, another object is not, nothing is no crash."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from toybox import metrics, shapes
from toybox.captions import Caption, parse
from toybox.primitives import Solid
from toybox.tracer import cameras, trace

SIZE = 24


def seen(rows, size=SIZE):
    """Opacity [16, R, R] and albedo [16, R, R, 3] of an object from the views of the measure."""
    azimuth, elevation = metrics.evaluation_views()
    rig = cameras(azimuth, elevation, torch.full_like(azimuth, metrics.RADIUS), torch.full_like(azimuth, metrics.FOVY))
    found = trace(torch.as_tensor(rows), rig, size)
    return found[..., 3], found[..., :3]


def variant(text, index):
    """The true object that `metrics.truth` compares with as number `index`."""
    rng = np.random.default_rng(5)
    return [shapes.build(parse(text), rng=rng) for _ in range(index + 1)][-1]


def score(text, opacity, albedo):
    return metrics.score(parse(text), opacity, albedo)


def test_the_views_are_eight_azimuths_at_two_elevations():
    azimuth, elevation = metrics.evaluation_views()
    found = sorted(zip(azimuth.tolist(), elevation.tolist(), strict=True))
    assert found == sorted((a, e) for a in range(0, 360, 45) for e in (10.0, 35.0))


@pytest.mark.parametrize("text, index", [("a frog", 3), ("a blue striped cat wearing a crown on a plate", 11)])
def test_the_truth_scored_against_itself_is_perfect(text, index):
    found = score(text, *seen(variant(text, index)))
    assert found.iou == 1 and found.variant == index
    assert found.colour == pytest.approx(0, abs=1e-5)
    assert_close(metrics.truth(parse(text), SIZE).solids[index], torch.from_numpy(variant(text, index)))


def test_an_unseen_variant_of_the_right_object_beats_another_object():
    unseen = shapes.build(Caption("duck"), rng=np.random.default_rng(77))
    right, wrong = score("a duck", *seen(unseen)), score("a chair", *seen(unseen))
    assert right.iou > 0.85 > wrong.iou + 0.1
    assert right.colour < 10 < wrong.colour


def test_a_turned_object_loses_because_nothing_is_aligned():
    opacity, albedo = seen(variant("a car", 0))
    turned = torch.arange(16).roll(2)  # by 90 degrees; the two elevations swap ends of the list, which is nothing here
    assert score("a car", opacity[turned], albedo[turned]).iou < 0.8 < score("a car", opacity, albedo).iou


def turned_round(rows):
    """The object seen from the other side."""
    rows, turn = torch.as_tensor(rows).clone(), torch.diag(torch.tensor([-1.0, 1.0, -1.0]))
    rows[:, 2:11] = (rows[:, 2:11].view(-1, 3, 3) @ turn.T).flatten(1)
    rows[:, 11:14] @= turn.T
    return rows


@pytest.mark.parametrize("text", ["a turtle", "a dog wearing a crown", "a yellow car", "an airplane"])
def test_what_has_two_heads_has_no_ends_that_differ(text):
    rows = torch.from_numpy(shapes.build(parse(text), rng=np.random.default_rng(77)))
    assert 0.8 < score(text, *seen(rows)).ends < 1.2
    assert score(text, *seen(turned_round(rows))).ends > 0.8  # wrong, but of one head
    assert score(text, *seen(torch.cat([rows, turned_round(rows)]))).ends < 0.1


@pytest.mark.parametrize("name", ["frog", "mushroom"])
def test_an_empty_picture_scores_nothing_and_does_not_crash(name):
    found = score(f"a {name}", torch.zeros(16, SIZE, SIZE), torch.zeros(16, SIZE, SIZE, 3))
    assert found.iou == 0 and math.isnan(found.colour) and math.isnan(found.ends)


def test_the_wrong_colour_costs_its_ciede2000():
    opacity, albedo = seen(variant("a frog", 0))
    found = score("a frog", opacity, albedo[..., [1, 0, 2]])  # a red frog
    assert found.iou == 1 and found.colour > 30


def test_a_missing_hat_costs_overlap():
    assert score("a bear wearing a hat", *seen(variant("a bear", 0))).iou < 0.9


def test_iou_is_what_counting_pixels_says():
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.rand(4, 9, 7, generator=generator) < 0.3 for _ in range(2))
    second[3] = ~first[3]
    expected = []
    for a, b in zip(first.flatten(1).tolist(), second.flatten(1).tolist(), strict=True):
        both = sum(p and q for p, q in zip(a, b, strict=True))
        expected.append(both / sum(p or q for p, q in zip(a, b, strict=True)))
    assert_close(metrics.iou(first, second), torch.tensor(expected))
    assert metrics.iou(first, second)[3] == 0
    assert metrics.iou(torch.zeros(2, 2, dtype=torch.bool), torch.zeros(2, 2, dtype=torch.bool)) == 1


def test_truth_follows_from_its_seed_and_is_empty_outside():
    first = metrics.truth(Caption("rocket"), 16)
    metrics.truth.cache_clear()
    again = metrics.truth(Caption("rocket"), 16)
    assert torch.equal(first.silhouettes, again.silhouettes) and torch.equal(first.albedo, again.albedo)
    assert first.silhouettes.shape == (metrics.VARIANTS, 16, 16, 16)
    assert (first.albedo[~first.silhouettes] == 0).all()
    assert not torch.equal(first.silhouettes, metrics.truth(Caption("rocket"), 16, seed=6).silhouettes)


def test_a_sphere_is_no_frog():
    ball = Solid().sphere((0, 0, 0), 1, (0.2, 0.65, 0.2)).rows()
    assert score("a frog", *seen(ball)).iou < 0.85
