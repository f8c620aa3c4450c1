"""The measure of right and wrong: the truth itself is perfect, a two-faced object is caught, nothing is no crash."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from toybox import metrics, shapes
from toybox.primitives import Solid
from toybox.tracer import cameras, trace
from toybox.words import OBJECTS

SIZE = 32


def seen(rows, size=SIZE):
    """Opacity [16, R, R] and albedo [16, R, R, 3] of an object from the views of the measure."""
    azimuth, elevation = metrics.evaluation_views()
    rig = cameras(azimuth, elevation, torch.full_like(azimuth, metrics.RADIUS), torch.full_like(azimuth, metrics.FOVY))
    found = trace(torch.as_tensor(rows), rig, size)
    return found[..., 3], found[..., :3]


def variant(name, index, colour=None):
    """The true object that `metrics.truth` compares with as number `index`."""
    rng = np.random.default_rng(5)
    return [shapes.build(name, colour, rng=rng) for _ in range(index + 1)][-1]


def two_faced(rows):
    """The object's front half, and the same mirrored at the middle of its body."""
    middle = rows[0, 13]  # the body is always the first primitive
    front = rows[rows[:, 13] > middle - 1e-4]
    back = front.copy()
    back[:, 13] = 2 * middle - back[:, 13]
    back[:, 2:11] = (front[:, 2:11].reshape(-1, 3, 3) * [1, 1, -1]).reshape(-1, 9)
    return np.concatenate([front, back])


def test_the_views_are_eight_azimuths_at_two_elevations():
    azimuth, elevation = metrics.evaluation_views()
    found = sorted(zip(azimuth.tolist(), elevation.tolist(), strict=True))
    assert found == sorted((a, e) for a in range(0, 360, 45) for e in (10.0, 35.0))


@pytest.mark.parametrize("text, name, colour, index", [("a frog", "frog", None, 3), ("a blue car", "car", "blue", 11)])
def test_the_truth_scored_against_itself_is_perfect(text, name, colour, index):
    found = metrics.score(text, *seen(variant(name, index, colour)))
    assert found.iou == 1 and found.variant == index and found.janus is False
    assert found.colour == pytest.approx(0, abs=1e-5)


def test_an_object_without_a_front_has_no_wrong_back():
    assert metrics.score("a mushroom", *seen(variant("mushroom", 0))).janus is None


# Not the duck and the snowman: their second face is small beside what a second head does to the silhouette.
@pytest.mark.parametrize("name", ["car", "chair", "bear", "penguin", "rocket", "house"])
def test_an_object_with_two_fronts_is_found(name):
    assert metrics.score(f"a {name}", *seen(two_faced(variant(name, 2)))).janus is True


@pytest.mark.parametrize("name", [name for name, word in OBJECTS.items() if word.has_front])
def test_a_back_that_looks_like_the_front_is_found(name):
    opacity, albedo = seen(variant(name, 2))
    assert metrics.score(f"a {name}", opacity, albedo).janus is False
    for pictures in (opacity, albedo):
        pictures[4], pictures[12] = pictures[0].clone(), pictures[8].clone()  # azimuth 180 shows azimuth 0
    assert metrics.score(f"a {name}", opacity, albedo).janus is True


def test_an_unseen_variant_of_the_right_object_beats_another_object():
    unseen = shapes.build("duck", rng=np.random.default_rng(77))
    right = metrics.score("a duck", *seen(unseen))
    wrong = metrics.score("a chair", *seen(unseen))
    assert right.iou > 0.9 > wrong.iou + 0.1
    assert right.colour < 10 < wrong.colour
    assert right.janus is False


def test_a_turned_object_loses_because_nothing_is_aligned():
    opacity, albedo = seen(variant("car", 0))
    turned = torch.arange(16).roll(2)  # by 90 degrees; the two elevations swap ends of the list, which is nothing here
    assert (
        metrics.score("a car", opacity[turned], albedo[turned]).iou < 0.8 < metrics.score("a car", opacity, albedo).iou
    )


@pytest.mark.parametrize("name", ["frog", "mushroom"])
def test_an_empty_picture_scores_nothing_and_does_not_crash(name):
    found = metrics.score(f"a {name}", torch.zeros(16, SIZE, SIZE), torch.zeros(16, SIZE, SIZE, 3))
    assert found.iou == 0 and math.isnan(found.colour) and not found.janus


def test_the_wrong_colour_costs_its_ciede2000():
    opacity, albedo = seen(variant("frog", 0))
    found = metrics.score("a frog", opacity, albedo[..., [1, 0, 2]])  # a red frog
    assert found.iou == 1 and found.colour > 30


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
    first, again = (metrics.truth("a rocket", 16) for _ in range(2))
    assert torch.equal(first.silhouettes, again.silhouettes) and torch.equal(first.albedo, again.albedo)
    assert first.silhouettes.shape == (metrics.VARIANTS, 16, 16, 16)
    assert (first.albedo[~first.silhouettes] == 0).all()
    assert not torch.equal(first.silhouettes, metrics.truth("a rocket", 16, seed=6).silhouettes)


def test_a_sphere_is_no_frog():
    ball = Solid().sphere((0, 0, 0), 1, (0.2, 0.65, 0.2)).rows()
    assert metrics.score("a frog", *seen(ball)).iou < 0.85
