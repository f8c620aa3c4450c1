import math

import pytest
import torch

from guidance.prompts import (
    VIEW_WORDS,
    PromptEmbeddings,
    ViewOptions,
    perp_neg_weights,
    view_prompts,
    view_weights,
    view_word,
)


def weights_at(azimuth, elevation=0.0, **angles):
    return view_weights(torch.tensor([float(azimuth)]), torch.tensor([float(elevation)]), **angles)[0]


@pytest.mark.parametrize(
    "azimuth, elevation, word",
    [
        (0, 0, "front view"),
        (-29, 0, "front view"),
        (31, 0, "side view"),
        (90, 0, "side view"),
        (-90, 10, "side view"),
        (149, 0, "side view"),
        (151, 0, "back view"),
        (-180, 0, "back view"),
        (540, 0, "back view"),
        (0, 59, "front view"),
        (0, 61, "overhead view"),
        (120, 90, "overhead view"),
    ],
)
def test_view_word_is_the_sector_of_the_view(azimuth, elevation, word):
    assert view_word(azimuth, elevation) == word


def test_angle_front_is_the_full_width_of_the_front_sector():
    assert [view_word(a, 0, angle_front=100) for a in (49, 51)] == ["front view", "side view"]


def test_angle_overhead_is_the_polar_angle_of_the_overhead_border():
    assert [view_word(0, e, angle_overhead=20) for e in (69, 71)] == ["front view", "overhead view"]


def test_angle_overhead_zero_means_no_overhead_view():
    assert weights_at(0, 90, angle_overhead=0.0)[3] == 0


@pytest.mark.parametrize("azimuth, view", [(0, 0), (90, 1), (-90, 1), (180, 2), (-180, 2)])
def test_a_view_in_the_middle_of_its_sector_has_weight_one(azimuth, view):
    assert weights_at(azimuth).tolist() == [float(i == view) for i in range(4)]


@pytest.mark.parametrize("azimuth, view", [(0, 0), (90, 1), (180, 2), (-180, 2), (-90, 4), (270, 4), (450, 1)])
def test_a_sided_view_in_the_middle_of_its_sector_has_weight_one(azimuth, view):
    assert weights_at(azimuth, sided=True).tolist() == [float(i == view) for i in range(5)]


def test_both_sides_together_are_the_side():
    azimuth, elevation = torch.linspace(-400, 400, 801), torch.linspace(-90, 90, 801)
    plain, sided = (view_weights(azimuth, elevation, 90.0, sided=sided) for sided in (False, True))
    torch.testing.assert_close(sided[:, :4] + sided[:, 4:] * torch.tensor([0.0, 1, 0, 0]), plain)
    assert (sided[:, [1, 4]].amin(1) == 0).all()  # never both
    mirrored = view_weights(-azimuth, elevation, 90.0, sided=True)
    torch.testing.assert_close(mirrored[:, [0, 4, 2, 3, 1]], sided)


def test_sided_prompts_are_in_the_order_of_the_weights():
    said = [view_prompts("a frog", sided=True)[weights_at(a, sided=True).argmax()] for a in (0, 90, 180, 270)]
    assert said == ["a frog, front view", "a frog, left side view", "a frog, back view", "a frog, right side view"]
    assert view_prompts("a frog") == [f"a frog, {word}" for word in VIEW_WORDS]


def test_straight_above_is_overhead_only():
    assert weights_at(77, 90).tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize("angle_front", [10.0, 60.0, 90.0, 180.0])
def test_view_weights_are_continuous_and_sum_to_one(angle_front):
    azimuth = torch.linspace(-400, 400, 8001, dtype=torch.float64)
    for elevation in (-40.0, 0.0, 55.0, 70.0, 90.0):
        weights = view_weights(azimuth, torch.full_like(azimuth, elevation), angle_front)
        torch.testing.assert_close(weights.sum(-1), torch.ones_like(azimuth))
        assert weights.min() >= -1e-9
        # The side view loses what front and back gain: twice the slope 1 / angle_front at the most, over 0.1 degrees.
        assert weights.diff(dim=0).abs().max() <= 2 * 0.1 / angle_front + 1e-9


def test_view_weights_are_continuous_in_elevation():
    elevation = torch.linspace(-90, 90, 1801, dtype=torch.float64)
    weights = view_weights(torch.full_like(elevation, 20.0), elevation)
    assert weights.diff(dim=0).abs().max() <= 0.1 / 20 + 1e-9  # fades in over 20 degrees


def test_views_left_and_right_are_alike():
    azimuth = torch.linspace(-180, 180, 361)
    zero = torch.zeros_like(azimuth)
    torch.testing.assert_close(view_weights(azimuth, zero), view_weights(-azimuth, zero))


def test_angle_front_90_interpolates_linearly_between_the_four_sides():
    azimuth = [0, 30, 60, 90, 135, 170, -30, -135]
    expected = [(1, 0, 0), (2 / 3, 1 / 3, 0), (1 / 3, 2 / 3, 0), (0, 1, 0), (0, 0.5, 0.5), (0, 1 / 9, 8 / 9)]
    expected += [expected[1], expected[4]]
    for a, weights in zip(azimuth, expected, strict=True):
        assert weights_at(a, angle_front=90.0)[:3].tolist() == pytest.approx(weights, abs=1e-6)


def test_conditioning_blends_the_embeddings_of_the_views():
    views = torch.eye(4).view(4, 1, 4)
    conditioning = PromptEmbeddings(views, torch.full((1, 4), 5.0), torch.zeros(1, 4)).condition(
        torch.tensor([15.0, 180.0]), torch.tensor([0.0, 0.0]), ViewOptions()
    )
    torch.testing.assert_close(conditioning.positive[:, 0], torch.tensor([[0.75, 0.25, 0, 0], [0, 0, 1.0, 0]]))
    assert conditioning.uncond.shape == (2, 1, 4) and conditioning.uncond.eq(5).all()
    assert conditioning.negatives is None and conditioning.weights is None


def test_conditioning_tells_the_sides_apart_where_it_is_sided():
    views, options = torch.eye(5).view(5, 1, 5), ViewOptions(sided=True, perpneg=True)
    prompts = PromptEmbeddings(views, torch.zeros(1, 5), torch.zeros(1, 5))
    found = prompts.condition(torch.tensor([45.0, -90.0, 180.0]), torch.zeros(3), options)
    assert found.positive[:, 0].tolist() == [[0.25, 0.75, 0, 0, 0], [0, 0, 0, 0, 1], [0, 0, 1, 0, 0]]
    assert found.negatives[:, 0].argmax(-1).flatten().tolist() == [0, 0, 0]
    assert found.negatives[:, 1].argmax(-1).flatten().tolist() == [1, 4, 4]  # the side that is seen
    plain = PromptEmbeddings(views[:4], torch.zeros(1, 5), torch.zeros(1, 5)).condition(
        torch.tensor([45.0, -90.0, 180.0]), torch.zeros(3), ViewOptions(perpneg=True)
    )
    torch.testing.assert_close(found.weights, plain.weights)


def perp_neg_by_hand(azimuth, negative_w, front_decay, side_decay):
    """Front and side weights as the paper's code describes them, for linear blending between 0, 90 and 180 degrees."""
    a = abs(azimuth)
    if a < 90:
        r = 1 - a / 90
        front = 0.0 if r > 0.8 else math.exp(-r * front_decay) * negative_w
        side = 0.0 if r < 0.2 else math.exp(-(1 - r) * side_decay) * negative_w
    else:
        r = 1 - (a - 90) / 90
        front = negative_w
        side = 0.0 if r > 0.8 else math.exp(-r * side_decay) * negative_w / 2
    return front, side


@pytest.mark.parametrize("azimuth", [-175, -100, -60, 0, 10, 45, 80, 89, 95, 130, 180])
def test_perp_neg_weights_follow_the_decay_factors(azimuth):
    options = ViewOptions(angle_front=90, perpneg=True, negative_w=-3, front_decay_factor=1.5, side_decay_factor=4)
    ours = perp_neg_weights(weights_at(azimuth, angle_front=90.0)[None], options)[0]
    assert ours.tolist() == pytest.approx(perp_neg_by_hand(azimuth, -3, 1.5, 4), abs=1e-5)


def test_perp_neg_gives_front_and_side_as_negatives_and_none_from_above():
    views = torch.eye(4).view(4, 1, 4)
    conditioning = PromptEmbeddings(views, torch.zeros(1, 4), torch.zeros(1, 4)).condition(
        torch.tensor([180.0, 180.0]), torch.tensor([0.0, 90.0]), ViewOptions(perpneg=True)
    )
    assert torch.equal(conditioning.negatives, views[:2].expand(2, -1, -1, -1))
    assert conditioning.weights[0].tolist() == [-2.0, -1.0]
    assert conditioning.weights[1].eq(0).all()


@pytest.mark.parametrize("angles", [{"angle_front": 0}, {"angle_front": 200}, {"angle_overhead": -1}])
def test_impossible_angles_are_refused_by_name(angles):
    with pytest.raises(ValueError, match=f"--{next(iter(angles))} needs"):
        ViewOptions(**angles)


def test_view_words_are_the_captions_of_the_toybox():
    assert VIEW_WORDS == ("front view", "side view", "back view", "overhead view")
