"""Cameras against geometry worked out by hand, and view sampling against its distributions."""

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from nerf.cameras import (
    ViewRanges,
    cameras_from_views,
    generate_rays,
    look_at,
    orbit_views,
    sample_views,
    six_views,
    view_positions,
    views_from_positions,
)
from nerf.types import Views

BOX = (-1.0, -1.0, -1.0, 1.0, 1.0, 1.0)


def views(azimuth, elevation=0.0, radius=3.0):
    azimuth = torch.tensor([float(a) for a in np.atleast_1d(azimuth)])
    return Views(azimuth, torch.full_like(azimuth, elevation), torch.full_like(azimuth, radius))


def draw(ranges, batch=4096, seed=0):
    return sample_views(ranges, batch, 4, 4, generator=torch.Generator().manual_seed(seed))


def project(cameras, points):
    """Pixel column and row of world points by the textbook pinhole, in numpy. [B, P, 3] -> [B, P, 2]"""
    found = []
    for c2w, fovy, p in zip(cameras.c2w.double().numpy(), cameras.fovy.numpy(), points.double().numpy(), strict=True):
        x, y, z, _ = np.linalg.inv(c2w) @ np.concatenate([p, np.ones((len(p), 1))], 1).T
        focal = cameras.height / 2 / math.tan(math.radians(fovy) / 2)
        found.append(np.stack([cameras.width / 2 + focal * x / -z, cameras.height / 2 - focal * y / -z], -1))
    return np.stack(found)


@pytest.mark.parametrize(
    "azimuth, elevation, expected",
    [
        (0, 0, (0, 0, 3)),
        (90, 0, (3, 0, 0)),
        (180, 0, (0, 0, -3)),
        (-90, 0, (-3, 0, 0)),
        (0, 90, (0, 3, 0)),
        (0, -90, (0, -3, 0)),
    ],
)
def test_a_view_stands_where_its_angles_say(azimuth, elevation, expected):
    assert_close(view_positions(views(azimuth, elevation)), torch.tensor([expected]).float(), atol=1e-6, rtol=0)


def test_positions_and_views_are_inverse():
    there, _ = draw(ViewRanges(uniform_sphere_rate=0.5), 257)
    back = views_from_positions(view_positions(there))
    assert_close(back.elevation, there.elevation, atol=2e-3, rtol=0)  # float32 asin near the pole
    assert_close(back.radius, there.radius)
    turn = torch.remainder(back.azimuth - there.azimuth + 180, 360) - 180
    assert (turn * torch.deg2rad(there.elevation).cos()).abs().max() < 1e-3


def test_the_camera_at_azimuth_90_sees_the_plus_x_side_with_the_front_on_its_left():
    rays = generate_rays(cameras_from_views(views(90), 40.0, 8, 8), BOX)
    hits = (rays.origins + rays.near[:, None] * rays.directions).reshape(8, 8, 3)
    assert_close(hits[..., 0], torch.ones(8, 8))  # every ray enters through the face x = +1
    assert hits[4, 0, 2] > 0.5 and hits[4, 7, 2] < -0.5  # +z, the front, is at the left edge of the picture


def test_row_0_is_the_top_and_column_0_the_left():
    rays = generate_rays(cameras_from_views(views(0), 40.0, 6, 8), BOX)
    directions = rays.directions.reshape(6, 8, 3)
    assert (directions[0, :, 1] > 0).all() and (directions[5, :, 1] < 0).all()
    assert (directions[:, 0, 0] < 0).all() and (directions[:, 7, 0] > 0).all()


@pytest.mark.parametrize("height, width", [(5, 5), (3, 9), (9, 3), (1, 1)])
def test_the_middle_pixel_looks_at_the_target(height, width):
    _, cameras = draw(ViewRanges(), 31)
    rays = generate_rays(type(cameras)(cameras.c2w, cameras.fovy, height, width), BOX)
    middle = (height // 2) * width + width // 2
    origins = rays.origins.reshape(31, -1, 3)[:, middle]
    directions = rays.directions.reshape(31, -1, 3)[:, middle]
    assert_close(origins + origins.norm(dim=-1, keepdim=True) * directions, torch.zeros(31, 3), atol=2e-6, rtol=0)


@pytest.mark.parametrize("height, width", [(4, 4), (4, 10), (10, 4)])
def test_corner_rays_have_the_angles_of_the_field_of_view(height, width):
    cameras = cameras_from_views(views(0), 50.0, height, width)
    corner = generate_rays(cameras, BOX).directions.reshape(height, width, 3)[0, 0]
    half = math.tan(math.radians(25))  # half the picture's height at distance 1
    up, left = half * (1 - 1 / height), half * (width - 1) / height  # half a pixel inside
    assert_close(corner / -corner[2], torch.tensor([-left, up, -1.0]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("height, width", [(7, 5), (16, 33)])
def test_points_on_a_ray_project_back_to_the_centre_of_its_pixel(height, width):
    ranges = ViewRanges(jitter_pose=True, fovy=(10, 60))
    _, cameras = sample_views(ranges, 3, height, width, generator=torch.Generator().manual_seed(1))
    rays = generate_rays(cameras, BOX)
    points = (rays.origins + 2.5 * rays.directions).reshape(3, -1, 3)
    row, column = np.mgrid[:height, :width] + 0.5
    expected = np.stack([column, row], -1).reshape(1, -1, 2).repeat(3, 0)
    np.testing.assert_allclose(project(cameras, points), expected, atol=1e-3)  # float32 positions, focal ~ 100 px


def test_each_camera_keeps_its_own_field_of_view():
    cameras = cameras_from_views(views([0, 0]), torch.tensor([20.0, 60.0]), 3, 3)
    top = generate_rays(cameras, BOX).directions.reshape(2, 3, 3, 3)[:, 0, 1]
    expected = torch.tan(torch.deg2rad(cameras.fovy) / 2) * 2 / 3
    assert_close(top[:, 1] / -top[:, 2], expected)


@pytest.mark.parametrize("elevation", [-90, -89.999, -45, 0, 45, 89.999, 90])
def test_matrices_are_rigid_and_upright_up_to_the_poles(elevation):
    c2w = cameras_from_views(views(np.arange(-180, 180, 15), elevation), 20.0, 4, 4).c2w
    rotation = c2w[:, :3, :3].double()
    assert_close(rotation.mT @ rotation, torch.eye(3).double().expand_as(rotation), atol=1e-6, rtol=0)
    assert_close(torch.linalg.det(rotation), torch.ones(24).double(), atol=1e-6, rtol=0)
    assert rotation[:, 1, 0].abs().max() < 1e-6  # the picture's x axis is level
    assert rotation[:, 1, 1].min() > -1e-6  # and its y axis never points down


@pytest.mark.parametrize("elevation", [90, -90])
def test_azimuth_still_turns_the_picture_at_a_pole(elevation):
    near_pole = views([0, 30, 120], elevation * (1 - 1e-5))
    at_pole = views([0, 30, 120], elevation)
    near, at = (cameras_from_views(v, 20.0, 4, 4).c2w for v in (near_pole, at_pole))
    assert_close(near, at, atol=1e-4, rtol=0)


@pytest.mark.parametrize("direction", [(0, 1, 0), (0, -1, 0), (1, 1, 1), (1, 0, 0), (0, 0, -1)])
def test_look_at_survives_an_up_vector_along_the_view(direction):
    position = torch.tensor([direction]).float()
    rotation = look_at(position, torch.zeros(1, 3), position)[0, :3, :3]
    assert_close(rotation.mT @ rotation, torch.eye(3), atol=1e-6, rtol=0)
    assert_close(rotation[:, 2], position[0] / position.norm())


def test_near_and_far_are_the_distances_to_the_box():
    rays = generate_rays(cameras_from_views(views([0, 90], radius=3.0), 1e-3, 1, 1), (-1, -1, -0.5, 0.25, 1, 0.5))
    assert_close(rays.near, torch.tensor([2.5, 2.75]))
    assert_close(rays.far, torch.tensor([3.5, 4.0]))


def test_near_starts_at_min_near_inside_the_box():
    rays = generate_rays(cameras_from_views(views(0, radius=0.5), 20.0, 1, 1), BOX, min_near=0.2)
    assert_close(rays.near, torch.tensor([0.2]))
    assert_close(rays.far, torch.tensor([1.5]))


def test_a_ray_that_misses_has_no_length():
    rays = generate_rays(cameras_from_views(views(0, radius=3.0), 120.0, 3, 3), BOX, min_near=0.3)
    hit = torch.zeros(3, 3, dtype=torch.bool)
    hit[1, 1] = True
    assert torch.equal(rays.far > rays.near, hit.flatten())
    assert torch.equal(rays.near[~hit.flatten()], torch.full((8,), 0.3))


def test_a_ray_inside_a_face_of_the_box_gives_no_nan():
    camera = cameras_from_views(views(0), 20.0, 1, 1)
    camera.c2w[:, 0, 3] = 1.0  # slide the camera sideways onto the face x = 1
    rays = generate_rays(camera, BOX)
    assert torch.isfinite(rays.near).all() and torch.isfinite(rays.far).all()


def test_views_stay_in_their_ranges_and_fill_them():
    ranges = ViewRanges(radius=(2, 4), polar=(30, 60), azimuth=(-50, 10), fovy=(15, 35))
    sampled, cameras = draw(ranges)
    for values, (low, high) in [
        (sampled.radius, (2, 4)),
        (90 - sampled.elevation, (30, 60)),
        (sampled.azimuth, (-50, 10)),
        (cameras.fovy, (15, 35)),
    ]:
        assert low - 1e-4 <= values.min() and values.max() <= high + 1e-4
        # Kolmogorov-Smirnov against the uniform: 1.95 / sqrt(n) is the 0.1 % bound.
        ranks = (values.sort().values - low) / (high - low)
        assert (ranks - torch.linspace(0, 1, len(ranks))).abs().max() < 1.95 / math.sqrt(len(ranks))


def test_ranges_beyond_180_wrap():
    sampled, _ = draw(ViewRanges(azimuth=(170, 190)), 257)
    assert (sampled.azimuth.abs() >= 170 - 1e-4).all() and sampled.azimuth.min() < -170 < 170 < sampled.azimuth.max()


def test_uniform_sphere_sampling_is_uniform_over_the_upper_half():
    sampled, _ = draw(ViewRanges(radius=(1, 1), uniform_sphere_rate=1.0), 16384)
    mean = view_positions(sampled).mean(0)
    error = 4 / math.sqrt(16384)  # 4 standard errors of a coordinate, each below 1
    assert_close(mean, torch.tensor([0.0, 0.5, 0.0]), atol=error, rtol=0)  # centroid of a half sphere
    height = torch.deg2rad(sampled.elevation).sin().sort().values  # uniform, by Archimedes
    assert (height - torch.linspace(0, 1, 16384)).abs().max() < 1.95 / math.sqrt(16384)


def test_uniform_sphere_rate_is_a_share_of_the_views():
    sampled, _ = draw(ViewRanges(polar=(100, 105), uniform_sphere_rate=0.25), 16384)
    share = (sampled.elevation >= 0).float().mean().item()
    assert abs(share - 0.25) < 4 * math.sqrt(0.25 * 0.75 / 16384)


def test_jitter_moves_camera_target_and_up_by_the_stated_amounts():
    still = {"radius": (3, 3), "polar": (90, 90), "azimuth": (0, 0)}
    _, cameras = draw(ViewRanges(**still, jitter_pose=True, jitter_center=0.4, jitter_target=0, jitter_up=0))
    offset = cameras.c2w[:, :3, 3] - torch.tensor([0.0, 0.0, 3.0])
    assert 0.19 < offset.abs().max() <= 0.2 + 1e-6 and offset.mean(0).abs().max() < 0.01
    _, cameras = draw(ViewRanges(**still, jitter_pose=True, jitter_center=0, jitter_target=0.1, jitter_up=0))
    aim = -3 * cameras.c2w[:, :2, 2] / cameras.c2w[:, 2:3, 2]  # where the view crosses the plane z = 0
    assert_close(aim.std(0), torch.full((2,), 0.1), atol=0.01, rtol=0)
    _, cameras = draw(ViewRanges(**still, jitter_pose=True, jitter_center=0, jitter_target=0, jitter_up=0.05))
    roll = torch.atan2(cameras.c2w[:, 1, 0], cameras.c2w[:, 1, 1])
    assert_close(roll.std(), torch.tensor(0.05), atol=0.003, rtol=0)


def test_jittered_views_are_reported_where_the_cameras_stand():
    sampled, cameras = draw(ViewRanges(jitter_pose=True), 31)
    assert_close(view_positions(sampled), cameras.c2w[:, :3, 3], atol=1e-5, rtol=0)


def test_the_same_seed_draws_the_same_views():
    ranges = ViewRanges(jitter_pose=True, uniform_sphere_rate=0.5)
    (_, one), (_, same), (_, other) = (draw(ranges, 8, seed) for seed in (3, 3, 4))
    assert torch.equal(one.c2w, same.c2w) and torch.equal(one.fovy, same.fovy)
    assert not torch.equal(one.c2w, other.c2w)


@pytest.mark.parametrize("batch", [0, 1])
def test_empty_and_single_batches_work(batch):
    sampled, cameras = draw(ViewRanges(jitter_pose=True), batch)
    assert sampled.azimuth.shape == (batch,) and cameras.c2w.shape == (batch, 4, 4)
    assert generate_rays(cameras, BOX).directions.shape == (batch * 16, 3)


def test_an_orbit_starts_in_front_and_turns_towards_plus_x():
    orbit, cameras = orbit_views(4, radius=2.0, elevation=30.0, height=5, width=7)
    assert_close(orbit.azimuth, torch.tensor([0.0, 90.0, -180.0, -90.0]))
    flat, high = 2 * math.cos(math.pi / 6), 1.0
    expected = torch.tensor([[0, high, flat], [flat, high, 0], [0, high, -flat], [-flat, high, 0]])
    assert_close(cameras.c2w[:, :3, 3], expected, atol=1e-6, rtol=0)
    assert (cameras.height, cameras.width) == (5, 7)


def test_six_views_look_along_the_six_axes():
    _, cameras = six_views(radius=2.0)
    axes = torch.tensor([[0, 0, 1], [1, 0, 0], [0, 0, -1], [-1, 0, 0], [0, 1, 0], [0, -1, 0]]).float()
    assert_close(cameras.c2w[:, :3, 2], axes, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"radius": (4.0, 2.0)}, "--radius_range needs 0 < min <= max, got 4.0 2.0"),
        ({"radius": (0.0, 2.0)}, "--radius_range"),
        ({"polar": (-5.0, 90.0)}, "--theta_range"),
        ({"azimuth": (10.0, -10.0)}, "--phi_range"),
        ({"fovy": (10.0, 180.0)}, "--fovy_range"),
        ({"radius": (3.0, math.nan)}, "--radius_range"),
        ({"uniform_sphere_rate": 1.5}, "--uniform_sphere_rate"),
        ({"jitter_up": -0.1}, "--jitter_up"),
    ],
)
def test_ranges_that_make_no_sense_are_refused_by_their_option(wrong, message):
    with pytest.raises(ValueError, match=message):
        ViewRanges(**wrong)


def test_rays_on_the_gpu_equal_rays_on_the_cpu(device):
    _, cameras = orbit_views(3, height=5, width=7, elevation=20.0)
    _, there = orbit_views(3, height=5, width=7, elevation=20.0, device=device)
    a, b = generate_rays(cameras, BOX), generate_rays(there, BOX)
    for name in ("origins", "directions", "near", "far"):
        assert_close(getattr(b, name).cpu(), getattr(a, name), atol=1e-5, rtol=0)  # other sine, other order
