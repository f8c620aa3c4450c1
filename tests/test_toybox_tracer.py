"""Pictures of the small world: closed forms, the rays of the trainer, and the torch reference.

The compiled tracer leaves out what a ray cannot notice, where the reference asks every primitive.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from nerf.cameras import cameras_from_views, generate_rays
from nerf.types import Views
from toybox import reference
from toybox.primitives import STRIPES, Solid, rotate_x, rotate_z
from toybox.tracer import query, trace
from tracer_case import (
    BLUE,
    BOTH,
    GREEN,
    HIT,
    RED,
    WHITE,
    animal,
    array,
    assert_sees_what_the_reference_sees,
    jumble,
    view,
)


@BOTH
def test_a_picture_shows_the_pattern_where_the_ray_arrives(ops):
    rows = array(Solid().box((0, 0, 0), (0.4, 0.4, 0.4), RED, rounding=0).paint(RED, STRIPES, WHITE))
    seen = ops.trace(rows, view(0, 0), 64)[0]
    height = (0.5 - (torch.arange(64) + 0.5) / 64) * 2 * (3.2 - 0.4) * math.tan(math.radians(10))  # on the front face
    line = (height.abs() < 0.38) & ((height / 0.08 - (height / 0.08).round()).abs() > 0.02)
    white = (height / 0.08).floor().int() % 2 == 0
    expected = torch.where(white[:, None], torch.tensor(WHITE), torch.tensor(RED))
    assert line.sum() > 40
    assert_close(seen[line][:, 32, :3], expected[line])


def test_the_compiled_tracer_sees_what_the_torch_reference_sees(compiled):
    seen, expected = (trace_(animal(), view(20, 15), 24) for trace_ in (trace, reference.trace))
    same = seen[..., 3] == expected[..., 3]
    assert same.float().mean() > 0.995  # a ray that grazes may arrive in one and just miss in the other
    gap = (seen - expected)[same].abs()
    # Both stop within HIT of the surface, not at the same point; across an edge the normal and the colour differ.
    assert (gap[:, 7] < 2 * HIT).float().mean() > 0.99
    assert (gap[:, 4:7].amax(1) < 0.05).float().mean() > 0.98
    assert (gap[:, :3].amax(1) < 1e-6).float().mean() > 0.98


@pytest.mark.parametrize("resolution", [1, 31, 33])  # around a block of the compiled tracer, and less than a tile
@pytest.mark.parametrize("seed", range(3))
def test_culling_changes_nothing_of_a_jumble(compiled, seed, resolution):
    views = torch.cat([view(20 + 77 * seed, 15), view(-130, 50, fovy=26), view(90 * seed, -10, radius=3.0)])
    assert_sees_what_the_reference_sees(jumble(seed), views, resolution)


def test_culling_changes_nothing_of_an_animal_in_full_resolution(compiled):
    assert_sees_what_the_reference_sees(animal(), view(30, 20), 256)


def test_a_blend_between_things_far_apart_is_kept(compiled):
    s = Solid().sphere((-0.3, 0, 0), 0.1, RED).sphere((0, 0.3, 0.3), 0.05, BLUE)
    s.ellipsoid((0.3, 0, 0), (0.1, 0.2, 0.1), GREEN, blend=0.9)
    rows, apart = array(s), array(s)
    apart[:, 1] = 0
    for camera in (view(0, 10), view(60, -30, fovy=30)):
        assert_sees_what_the_reference_sees(rows, camera, 64)
        # the blend fills what was empty: the test would be idle without it
        assert trace(rows, camera, 64)[..., 3].sum() > 1.5 * trace(apart, camera, 64)[..., 3].sum()


def test_a_chain_of_blends_reaches_as_far_as_all_of_them_together(compiled):
    s = Solid().box((0, -0.35, 0), (0.4, 0.02, 0.4), WHITE)
    for i in range(5):
        s.sphere((0.07 * i - 0.14, -0.2 + 0.09 * i, 0), 0.06, (0.2 * i, 0.5, 0.1), blend=0.12)
    assert_sees_what_the_reference_sees(array(s), view(40, 10), 96)


@pytest.mark.parametrize(
    "solid",
    [
        Solid().sphere((0.2, 0.1, 0), 0.1, RED),
        Solid().ellipsoid((0, 0, 0), (0.45, 0.01, 0.3), RED, rotation=rotate_z(33)),  # its distance is only estimated
        Solid().box((0, 0, 0), (0.01, 0.45, 0.01), RED, rotation=rotate_x(45)),
        Solid().cylinder((0, 0.2, 0), 0.2, 0.01, RED),
        Solid().cone((0, 0, 0), 0.4, 0.3, 0.0, RED, rotation=rotate_x(180)),
        Solid().torus((0, 0, 0), 0.4, 0.03, RED, rotation=rotate_x(70)),
    ],
    ids=["sphere", "ellipsoid", "box", "cylinder", "cone", "torus"],
)
def test_one_primitive_is_seen_whole(compiled, solid):
    for camera in (view(0, 0), view(120, 35)):
        assert_sees_what_the_reference_sees(array(solid), camera, 65)


@pytest.mark.parametrize("radius, fovy", [(0.7, 100.0), (0.05, 120.0), (1.2, 60.0)])
def test_a_camera_among_the_primitives_sees_what_the_reference_sees(compiled, radius, fovy):
    around = Solid()
    for i in range(12):  # a ring that leaves the middle free
        around.sphere((0.5 * math.cos(i), 0.15 * math.sin(3 * i), 0.5 * math.sin(i)), 0.08, RED, blend=0.05 * (i % 2))
    assert_sees_what_the_reference_sees(array(around), view(35, 20, radius, fovy), 33)


def test_a_rolled_camera_that_looks_aside_sees_what_the_reference_sees(compiled):
    right, up, forward = torch.tensor(rotate_z(25) @ rotate_x(10), dtype=torch.float32).T
    camera = torch.cat([torch.tensor([0.3, -0.2, 2.0]), right, up, -3 * forward])[None]
    assert trace(jumble(0), camera, 64)[..., 3].mean() > 0.05
    assert_sees_what_the_reference_sees(jumble(0), camera, 64)


@BOTH
def test_a_camera_inside_a_primitive_sees_it_at_once(ops):
    seen = ops.trace(array(Solid().sphere((0, 0, 0), 0.5, RED)), view(0, 0, radius=0.1), 9)
    assert (seen[..., 3] == 1).all() and (seen[..., 7] == 0).all()


def test_views_of_a_batch_are_what_each_is_alone(compiled):
    rows, views = jumble(1), torch.cat([view(0, 0), view(100, 30), view(-50, 70)])
    assert_close(trace(rows, views, 37), torch.cat([trace(rows, v[None], 37) for v in views]), atol=0, rtol=0)


@BOTH
def test_what_lies_behind_the_camera_is_not_seen(ops):
    rows = array(Solid().sphere((0, 0, 0.6), 0.1, RED))
    assert ops.trace(rows, view(0, 0, radius=0.3, fovy=90.0), 16)[..., 3].sum() == 0


def test_a_sphere_covers_the_share_of_the_picture_that_perspective_gives_it():
    radius, away, fovy = 0.45, 3.2, 20.0
    seen = trace(array(Solid().sphere((0, 0, 0), radius, RED)), view(30, 20, away, fovy), 256)[0]
    edge = math.tan(math.asin(radius / away)) / math.tan(math.radians(fovy / 2))  # in half pictures
    # 1.2 %: rays arrive HIT before the surface, which is 0.5 % of the area, and pixels are counted whole
    assert float(seen[..., 3].mean()) == pytest.approx(math.pi * edge**2 / 4, rel=0.012)
    middle = seen[127:129, 127:129].reshape(-1, 8)
    assert_close(middle[:, 7], torch.full((4,), away - radius), atol=2 * HIT, rtol=0)
    towards = view(30, 20, away, fovy)[0, :3] / away
    assert_close(middle[:, 4:7].mean(0), towards, atol=1e-2, rtol=0)  # one pixel is 5e-3 of the sphere's radius


def test_azimuth_90_sees_plus_x_and_the_front_has_it_on_the_right():
    rows = array(Solid().sphere((0.3, 0, 0), 0.1, RED).sphere((0, 0.3, 0), 0.1, GREEN).sphere((0, 0, 0.3), 0.1, BLUE))
    assert_close(view(90, 0)[0, :3], torch.tensor([3.2, 0, 0]), atol=1e-5, rtol=0)

    def colour(azimuth, elevation, column, row):
        return trace(rows, view(azimuth, elevation), 65)[0, row, column, :3]

    aside = round(32.5 + 32.5 * 0.3 / (3.2 * math.tan(math.radians(10))))
    assert_close(colour(90, 0, 32, 32), torch.tensor(RED))
    assert_close(colour(0, 0, 32, 32), torch.tensor(BLUE))
    assert_close(colour(0, 0, aside, 32), torch.tensor(RED))
    assert_close(colour(0, 0, 32, 64 - aside), torch.tensor(GREEN))  # up is up: row 0 is the top
    assert_close(colour(90, 0, 64 - aside, 32), torch.tensor(BLUE))
    assert_close(colour(0, 89, 32, aside), torch.tensor(BLUE))  # from above the front is at the bottom


@pytest.mark.parametrize("azimuth, elevation", [(25, 10), (-130, 40), (90, -15)])
def test_the_rays_of_the_trainer_arrive_where_the_tracer_says(azimuth, elevation):
    rows, resolution = animal(), 48
    seen = trace(rows, view(azimuth, elevation, 3.1, 22.0), resolution).reshape(-1, 8)
    angles = (torch.tensor([float(v)]) for v in (azimuth, elevation, 3.1))
    rig = cameras_from_views(Views(*angles), 22.0, resolution, resolution)
    rays = generate_rays(rig, [-1.0, -1, -1, 1, 1, 1])
    hit = seen[:, 3] > 0
    assert 0.2 < hit.float().mean() < 0.8
    arrived = rays.origins[hit] + seen[hit, 7:] * rays.directions[hit]
    assert (query(rows, arrived)[:, 0].abs() < 2 * HIT).all()
    # and the pixels that saw nothing pass by: no point of their rays is inside
    along = torch.linspace(2.3, 3.9, 200)[:, None, None]
    missed = (rays.origins[~hit] + along * rays.directions[~hit]).reshape(-1, 3)
    assert (query(rows, missed)[:, 0] > 0).all()
