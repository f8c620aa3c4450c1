"""Points on surfaces and the distances between them, against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from toybox import surface
from toybox.primitives import Solid, rotate_x
from toybox.surface import Surface, difference, of_mesh, of_solid, outside

GREY = (0.5, 0.5, 0.5)


def rows(solid: Solid) -> torch.Tensor:
    """The primitives as they were added, neither centred nor scaled."""
    return torch.tensor(solid._rows, dtype=torch.float32)


def box_mesh(low, high, flip=False):
    """A closed box of twelve triangles, counter-clockwise from outside unless flipped."""
    corners = torch.cartesian_prod(*(torch.tensor([a, b], dtype=torch.float32) for a, b in zip(low, high, strict=True)))
    quads = [[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]]
    faces = torch.tensor([[q[0], q[i], q[i + 1]] for q in quads for i in (1, 2)], dtype=torch.int32)
    return corners, faces.flip(1) if flip else faces


def test_points_of_a_flat_ellipsoid_lie_on_it_with_its_normals():
    radii = torch.tensor([0.4, 0.15, 0.3])
    found = of_solid(rows(Solid().ellipsoid((0, 0, 0), radii.tolist(), GREY)), count=2000)
    assert len(found.points) == 2000
    assert_close((found.points / radii).norm(dim=1), torch.ones(2000), atol=1e-4, rtol=0)
    expected = torch.nn.functional.normalize(found.points / radii**2, dim=1)
    # 1e-2: float32 distances of 1e-7 over a step of 1e-3, and the curvature of the ends over that step
    assert_close(found.normals, expected, atol=1e-2, rtol=0)


def test_points_of_a_solid_are_spread_by_area():
    """The flat ellipsoid, whose signed distance is only nearly one: its sides are not favoured."""
    a, b = 0.4, 0.15
    found = of_solid(rows(Solid().ellipsoid((0, 0, 0), (a, b, a), GREY)), count=8000).points
    # Area of a spheroid above the height y = b/2, of the whole, by integrating 2 pi r ds numerically.
    y = torch.linspace(0, b, 20001, dtype=torch.float64)
    r = a * (1 - (y / b) ** 2).clamp(min=0).sqrt()
    strips = math.pi * (r[1:] + r[:-1]) * torch.hypot(torch.diff(r), torch.diff(y))
    expected = float(strips[10000:].sum() / strips.sum())
    share = float((found[:, 1].abs() > b / 2).float().mean())
    assert share == pytest.approx(expected, abs=0.02)  # 4 standard deviations of 8000 draws


def test_points_of_a_mesh_are_spread_by_area():
    vertices, faces = box_mesh((-0.4, -0.1, -0.2), (0.4, 0.1, 0.2))
    found = of_mesh(vertices, faces, count=6000)
    half = torch.tensor([0.4, 0.1, 0.2])
    assert_close((found.points.abs() / half).amax(1), torch.ones(6000), atol=1e-5, rtol=0)
    areas = torch.tensor([0.1 * 0.2, 0.4 * 0.2, 0.4 * 0.1])
    shares = found.normals.abs().mean(0)
    assert_close(shares, areas / areas.sum(), atol=0.03, rtol=0)  # 4 standard deviations of 6000 draws
    assert ((found.points * found.normals).sum(1) > 0).all()


def test_a_mesh_and_the_solid_it_is_of_do_not_differ():
    solid = rows(Solid().box((0.05, 0, 0), (0.4, 0.2, 0.3), GREY, rounding=0))
    found = difference(of_mesh(*box_mesh((-0.35, -0.2, -0.3), (0.45, 0.2, 0.3))), of_solid(solid))
    assert found.fscore == 1 and found.chamfer < 0.01 and found.normal < 5  # the floor of two samples


def test_what_is_inside_is_not_seen():
    outer, inner = box_mesh((-0.4,) * 3, (0.4,) * 3), box_mesh((-0.2,) * 3, (0.2,) * 3, flip=True)
    both = torch.cat([outer[0], inner[0]]), torch.cat([outer[1], inner[1] + 8])
    assert (of_mesh(*both, count=3000).points.abs().amax(1) > 0.39).all()


def test_a_deep_cup_is_seen_to_its_bottom():
    """Unlike a closed box: five sides of a box within five sides of another, open above."""
    outer, inner = box_mesh((-0.4,) * 3, (0.4,) * 3), box_mesh((-0.3, -0.3, -0.3), (0.3, 0.4, 0.3), flip=True)
    lids = [[2, 3, 7], [2, 7, 6]]
    faces = [
        torch.tensor([f for f in mesh[1].tolist() if sorted(f) not in map(sorted, lids)]) for mesh in (outer, inner)
    ]
    points = of_mesh(torch.cat([outer[0], inner[0]]), torch.cat([faces[0], faces[1] + 8]), count=3000).points
    assert ((points[:, 1] < -0.29) & (points.abs().amax(1) < 0.31)).any()


def test_every_point_of_a_sphere_is_seen():
    points = torch.nn.functional.normalize(torch.randn(20000, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    assert outside(0.4 * points).all()


@pytest.mark.parametrize("gap, expected", [(0.01, 1.0), (0.05, 0.0)])
def test_two_planes_are_as_far_apart_as_they_are(gap, expected):
    line = torch.linspace(-0.5, 0.5, 80)
    flat = torch.cat([torch.cartesian_prod(line, line), torch.zeros(6400, 1)], 1)
    up = torch.tensor([0.0, 0, 1]).expand(6400, 3)
    found = difference(Surface(flat, up), Surface(flat + gap * up, up))
    assert found.chamfer == pytest.approx(gap, abs=1e-5) and found.fscore == expected
    assert found.normal == pytest.approx(0, abs=0.1)  # degrees: acos near 1 in float32


def test_half_a_plane_has_all_precision_and_half_the_recall():
    line, half = 0.99 * torch.linspace(-0.5, 0.5, 101), 0.99 * torch.linspace(-0.5, 0, 51)
    both = [torch.cat([torch.cartesian_prod(x, line), torch.zeros(len(x) * 101, 1)], 1) for x in (half, line)]
    part, whole = (Surface(p, torch.tensor([0.0, 0, 1]).expand_as(p)) for p in both)
    recall = (51 + 2) / 101  # two more rows, 0.0099 apart, are within 0.02
    assert difference(part, whole).fscore == pytest.approx(2 * recall / (1 + recall), abs=1e-4)


def test_the_normals_of_a_tilted_plane_are_off_by_its_tilt():
    normals = torch.tensor([[0.0, 0, 1]]), torch.tensor(rotate_x(25) @ (0, 0, 1)).float()[None]
    origin = torch.zeros(1, 3)
    assert difference(*(Surface(origin, n) for n in normals)).normal == pytest.approx(25, abs=1e-3)


def test_the_nearest_point_is_the_one_that_brute_force_finds():
    generator = torch.Generator().manual_seed(0)
    points, others = torch.rand(130, 3, generator=generator), torch.rand(77, 3, generator=generator)
    assert torch.equal(surface._nearest(points, others), torch.cdist(points, others).argmin(1))


def test_nothing_is_infinitely_far_from_something():
    nothing, something = Surface(torch.zeros(0, 3), torch.zeros(0, 3)), Surface(torch.zeros(1, 3), torch.ones(1, 3))
    for found in (difference(nothing, something), difference(something, nothing)):
        assert found == surface.Difference(math.inf, 0.0, 90.0)
