"""The tracer of the small world: distances, colours, patterns, pictures.

Oracles: closed forms, brute force over sampled surfaces, the torch reference for the compiled operators (which
leave out what a ray cannot notice, where the reference asks every primitive), and the rays of the trainer.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import extension
from nerf.cameras import cameras_from_views, generate_rays
from nerf.types import Views
from toybox import reference, tracer
from toybox.primitives import SPOTS, STRIPES, Solid, rotate_x, rotate_y, rotate_z
from toybox.tracer import cameras, query, trace

RED, GREEN, BLUE, WHITE = (0.9, 0.1, 0.1), (0.1, 0.9, 0.1), (0.1, 0.1, 0.9), (1.0, 1.0, 1.0)
HIT = reference.HIT  # scene units at which a ray counts as arrived
BOTH = pytest.mark.parametrize("ops", [tracer, reference], ids=["compiled", "reference"])


@pytest.fixture
def compiled():
    if not extension.load("toybox"):
        pytest.skip("no compiler")


def array(solid: Solid) -> torch.Tensor:
    """The primitives as they were added, neither centred nor scaled."""
    return torch.tensor(solid._rows, dtype=torch.float32)


def points(count=500, seed=0) -> torch.Tensor:
    return torch.rand(count, 3, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def distance(solid: Solid, at: torch.Tensor) -> torch.Tensor:
    """From the tracer in use, which is also compared with the reference."""
    found = query(array(solid), at)
    assert_close(found, reference.query(array(solid), at), atol=1e-5, rtol=0)  # float32, sizes of about 1
    return found[:, 0]


def view(azimuth, elevation, radius=3.2, fovy=20.0) -> torch.Tensor:
    return cameras(*(torch.tensor([float(v)]) for v in (azimuth, elevation, radius, fovy)))


def animal() -> torch.Tensor:
    """Ellipsoids that melt into each other, and hard ones on top: what the animals are made of."""
    s = Solid().ellipsoid((0, -0.15, 0), (0.38, 0.28, 0.42), GREEN)
    s.ellipsoid((0, 0.1, 0.24), (0.33, 0.2, 0.25), GREEN, blend=0.08)
    for x in (-1, 1):
        s.sphere((x * 0.2, 0.27, 0.24), 0.12, GREEN).ellipsoid((x * 0.2, 0.3, 0.32), (0.09, 0.09, 0.06), WHITE)
        s.ellipsoid((x * 0.4, -0.23, -0.15), (0.17, 0.19, 0.29), BLUE, rotation=rotate_z(x * 20), blend=0.04)
    return torch.from_numpy(s.paint(GREEN, SPOTS, RED).rows())


def jumble(seed, count=24) -> torch.Tensor:
    """Every kind of primitive, anywhere, turned anyhow, half of them blended and a third patterned."""
    rng, s = np.random.default_rng(seed), Solid()
    for i in range(count):
        c, a, b, d = rng.uniform(-0.4, 0.4, 3), *rng.uniform(0.03, 0.15, 3)
        colour = tuple(rng.uniform(0, 1, 3))
        turn, blend = rotate_x(rng.uniform(0, 180)) @ rotate_y(rng.uniform(0, 180)), rng.uniform(0.02, 0.1) * (i % 2)
        add, size = [
            (s.ellipsoid, [(a, b, d)]),
            (s.box, [(a, b, d)]),
            (s.cylinder, [a, b]),
            (s.cone, [a, b, 0.3 * b]),
            (s.torus, [a, 0.3 * a]),
        ][i % 5]
        add(c, *size, colour, rotation=turn, blend=blend)
        s.paint(colour, i % 3, WHITE)
    return torch.from_numpy(s.rows())


def rays(views: torch.Tensor, resolution: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Origins and unit directions through the centres of all pixels. [B, R, R, 3] each"""
    centre = (torch.arange(resolution) + 0.5) / resolution * 2 - 1
    o, right, up, forward = (v[:, None, None] for v in views.split(3, 1))
    d = forward + centre[None, None, :, None] * right - centre[None, :, None, None] * up
    return o.expand_as(d), torch.nn.functional.normalize(d, dim=-1)


def assert_sees_what_the_reference_sees(rows, views, resolution):
    """The same hits, and at each what the reference finds at that very point with every primitive asked."""
    seen = trace(rows, views, resolution)
    with (
        pytest.MonkeyPatch.context() as patch
    ):  # the compiled query has its own tests, asks them all, and saves minutes
        patch.setattr(reference, "query", query)
        expected = reference.trace(rows, views, resolution)
    both = (seen[..., 3] > 0) & (expected[..., 3] > 0)
    # A ray that grazes may arrive in one and just miss in the other: they step differently.
    grazes = (seen[..., 3] != expected[..., 3]).sum()
    assert grazes <= 1 + 0.003 * both.sum()
    assert (seen[seen[..., 3] == 0] == 0).all()
    # Each stops within HIT of the surface; seen at a slant that is a longer way.
    assert ((seen - expected)[both][:, 7].abs() < 2 * HIT).float().mean() > 0.98 - 1 / max(len(both), 1)
    hit = seen[..., 3] > 0
    origins, directions = rays(views, resolution)
    at = (origins + seen[..., 7:] * directions)[hit].double()  # float32 would shift the normals of thin things
    exact = reference.query(rows.double(), at)
    assert (exact[:, 0] < HIT + 1e-5).all()
    if hit.any():
        h = torch.eye(3, dtype=torch.float64) * 2e-3
        slope = [reference.query(rows.double(), at + o)[:, 0] - reference.query(rows.double(), at - o)[:, 0] for o in h]
        normal = torch.nn.functional.normalize(torch.stack(slope, -1), dim=-1).float()
        # float32 knows the distance to 2e-7 of differences of 4e-3; 1 in 1000: a difference of nothing has no direction
        assert ((seen[hit][:, 4:7] - normal).abs().amax(1) < 5e-3).float().mean() > 0.999
        # Points on the line between two colours may fall on either side.
        assert ((seen[hit][:, :3] - exact[:, 1:]).abs().amax(1) < 1e-5).float().mean() > 0.998


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
def test_a_picture_shows_the_pattern_where_the_ray_arrives(ops):
    rows = array(Solid().box((0, 0, 0), (0.4, 0.4, 0.4), RED, rounding=0).paint(RED, STRIPES, WHITE))
    seen = ops.trace(rows, view(0, 0), 64)[0]
    height = (0.5 - (torch.arange(64) + 0.5) / 64) * 2 * (3.2 - 0.4) * math.tan(math.radians(10))  # on the front face
    line = (height.abs() < 0.38) & ((height / 0.08 - (height / 0.08).round()).abs() > 0.02)
    white = (height / 0.08).floor().int() % 2 == 0
    expected = torch.where(white[:, None], torch.tensor(WHITE), torch.tensor(RED))
    assert line.sum() > 40
    assert_close(seen[line][:, 32, :3], expected[line])


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
