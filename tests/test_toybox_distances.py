"""Distances, colours and patterns of the small world: closed forms, brute force, and the reference."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from toybox import reference
from toybox.primitives import SPOTS, STRIPES, Solid, rotate_x, rotate_y
from toybox.tracer import query
from tracer_case import BOTH, GREEN, RED, WHITE, animal, array, distance, jumble, points, view


def test_distance_to_a_sphere_is_exact_inside_and_outside():
    at, centre = points(), torch.tensor([0.1, -0.2, 0.3])
    assert_close(distance(Solid().sphere(centre, 0.4, RED), at), (at - centre).norm(dim=1) - 0.4, atol=1e-5, rtol=0)


def test_distance_to_a_rounded_turned_box_is_exact():
    at, turn, half = points(), rotate_y(30) @ rotate_x(20), torch.tensor([0.4, 0.2, 0.3])
    local = at @ torch.tensor(turn, dtype=torch.float32)  # the inverse of a rotation is its transpose
    core = half - 0.05
    outside = (local - local.clamp(-core, core)).norm(dim=1)
    inside = (core - local.abs()).amin(1)
    expected = torch.where(outside > 0, outside, -inside) - 0.05
    box = Solid().box((0, 0, 0), half.tolist(), RED, rounding=0.05, rotation=turn)
    assert_close(distance(box, at), expected, atol=1e-5, rtol=0)


def test_distance_to_a_torus_is_the_distance_to_its_ring():
    at, turn = points(), torch.linspace(0, 2 * math.pi, 4097)
    ring = 0.5 * torch.stack([turn.cos(), torch.zeros_like(turn), turn.sin()], 1)
    # 1e-4: neighbouring points of the ring are 8e-4 apart, so the nearest is at most 4e-4 aside
    expected = torch.cdist(at, ring).amin(1) - 0.1
    assert_close(distance(Solid().torus((0, 0, 0), 0.5, 0.1, RED), at), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ["cylinder", "cone"])
def test_distance_to_a_body_of_revolution_is_the_distance_to_its_outline(kind):
    bottom, top, height = (0.3, 0.3, 0.4) if kind == "cylinder" else (0.4, 0.1, 0.4)
    corners = torch.tensor([[0, -height], [bottom, -height], [top, height], [0, height]])
    share = torch.linspace(0, 1, 1001)[:, None]
    outline = torch.cat([a + share * (b - a) for a, b in zip(corners, corners[1:], strict=False)])
    at = points()
    flat = torch.stack([at[:, [0, 2]].norm(dim=1), at[:, 1]], 1)
    wall = bottom + (top - bottom) * (flat[:, 1] + height) / (2 * height)
    inside = (flat[:, 0] < wall) & (flat[:, 1].abs() < height)
    expected = torch.cdist(flat, outline).amin(1) * torch.where(inside, -1, 1)
    solid = Solid()
    if kind == "cylinder":
        solid.cylinder((0, 0, 0), bottom, height, RED, rounding=0)
    else:
        solid.cone((0, 0, 0), height, bottom, top, RED)
    assert_close(distance(solid, at), expected, atol=1e-3, rtol=0)  # the outline is sampled every 8e-4


def test_a_smooth_union_bulges_by_a_quarter_of_its_radius_and_ends_where_the_distances_differ_by_it():
    blend, at = 0.1, points(2000)
    left, right = (-0.25, 0.0, 0.0), (0.25, 0.0, 0.0)
    both = distance(Solid().sphere(left, 0.3, RED).sphere(right, 0.3, GREEN, blend=blend), at)
    apart = torch.stack([(at - torch.tensor(c)).norm(dim=1) - 0.3 for c in (left, right)])
    gap, nearest = (apart[0] - apart[1]).abs(), apart.amin(0)
    assert_close(both[gap > blend], nearest[gap > blend], atol=1e-5, rtol=0)
    assert (both <= nearest + 1e-5).all()
    middle = torch.tensor([[0.0, 0.4, 0.0]])
    solid = Solid().sphere(left, 0.3, RED).sphere(right, 0.3, GREEN, blend=blend)
    assert float(distance(solid, middle)) == pytest.approx(math.hypot(0.25, 0.4) - 0.3 - blend / 4, abs=1e-5)


def test_the_colour_is_that_of_the_nearest_primitive():
    rows = array(Solid().sphere((-0.4, 0, 0), 0.2, RED).sphere((0.4, 0, 0), 0.2, GREEN))
    at = torch.tensor([[-0.3, 0.1, 0.0], [0.2, -0.1, 0.3]])
    assert_close(query(rows, at)[:, 1:], torch.tensor([RED, GREEN]))


@BOTH
def test_no_points_no_views_and_no_primitives_give_empty_answers(ops):
    rows, nothing = animal(), torch.zeros(0, 25)
    assert ops.query(rows, torch.zeros(0, 3)).shape == (0, 4)
    assert ops.trace(rows, torch.zeros(0, 12), 8).shape == (0, 8, 8, 8)
    assert (ops.trace(nothing, view(0, 0), 9) == 0).all()
    far = ops.query(nothing, points(3))
    assert (far[:, 0] > 1e6).all() and (far[:, 1:] == 0).all()


@BOTH
def test_stripes_are_level_bands_half_of_the_second_colour(ops):
    period = 0.16
    rows = array(Solid().sphere((0, 0, 0), 0.9, RED).paint(RED, STRIPES, WHITE))
    at = points(2000)
    band = torch.div(at[:, 1] + 10 * period, period / 2, rounding_mode="floor").int() % 2  # 0 is the second colour
    clear = ((at[:, 1] / (period / 2)) - (at[:, 1] / (period / 2)).round()).abs() > 1e-4
    expected = torch.tensor([WHITE, RED])[band.long()]
    assert_close(ops.query(rows, at)[clear, 1:], expected[clear])


@BOTH
def test_spots_are_balls_around_a_body_centred_lattice(ops):
    cell, radius = 0.17, 0.05
    rows = array(Solid().box((0, 0, 0), (1, 1, 1), RED).paint(RED, SPOTS, WHITE))
    at, line = points(2000), torch.arange(-7, 8) * cell
    corners = torch.cartesian_prod(line, line, line)
    off = torch.cdist(at, torch.cat([corners, corners + cell / 2])).amin(1)
    clear = (off - radius).abs() > 1e-4
    expected = torch.where((off < radius)[:, None], torch.tensor(WHITE), torch.tensor(RED))
    assert_close(ops.query(rows, at)[clear, 1:], expected[clear])
    assert 0.15 < (off < radius).float().mean() < 0.3  # 2 balls a cell: 21 %


@BOTH
def test_a_pattern_belongs_to_its_primitive_and_moves_no_surface(ops):
    plain = Solid().sphere((-0.3, 0, 0), 0.2, RED).sphere((0.3, 0, 0), 0.2, GREEN)
    at, before = points(), ops.query(array(plain), points())
    after = ops.query(array(plain.paint(GREEN, STRIPES, WHITE)), at)
    assert_close(after[:, 0], before[:, 0], atol=0, rtol=0)
    left = at[:, 0] < 0
    assert_close(after[left], before[left])
    assert 0.3 < (after[~left, 1:] == 1).all(1).float().mean() < 0.7


@pytest.mark.parametrize("seed", range(3))
def test_the_compiled_query_asks_every_primitive_as_the_reference_does(compiled, seed):
    at = 0.6 * points(3001)
    found, expected = query(jumble(seed), at), reference.query(jumble(seed), at)
    assert_close(found[:, 0], expected[:, 0], atol=1e-5, rtol=0)
    # Points on the line between two colours may fall on either side.
    assert ((found - expected).abs().amax(1) < 1e-5).float().mean() > 0.998
