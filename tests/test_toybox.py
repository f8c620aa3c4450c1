"""The small world: its shapes, its tracer, its words and its pictures.

Oracles: closed forms, brute force over sampled surfaces, the torch tracer for the compiled one, and the cameras that
the trainer uses.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import extension
from guidance.prompts import VIEW_WORDS, view_prompts
from nerf.cameras import cameras_from_views, generate_rays
from nerf.types import Views
from toybox import pictures, reference, shapes, words
from toybox.primitives import ROW, Solid, bounds, rotate_x, rotate_y, rotate_z
from toybox.tracer import cameras, query, trace
from toybox.words import COLOURS, OBJECTS, canonical, caption, parse, vocabulary

RED, GREEN, BLUE = (0.9, 0.1, 0.1), (0.1, 0.9, 0.1), (0.1, 0.1, 0.9)
HIT = reference.HIT  # scene units at which a ray counts as arrived


def array(solid: Solid) -> torch.Tensor:
    """The primitives as they were added, neither centred nor scaled."""
    return torch.tensor(solid._rows, dtype=torch.float32)


def build(name, colour=None, seed=0) -> torch.Tensor:
    return torch.from_numpy(shapes.build(name, colour, rng=np.random.default_rng(seed)))


def points(count=500, seed=0) -> torch.Tensor:
    return torch.rand(count, 3, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def distance(solid: Solid, at: torch.Tensor) -> torch.Tensor:
    """From the tracer in use, which is also compared with the reference."""
    found = query(array(solid), at)
    assert_close(found, reference.query(array(solid), at), atol=1e-5, rtol=0)  # float32, sizes of about 1
    return found[:, 0]


def view(azimuth, elevation, radius=3.2, fovy=20.0) -> torch.Tensor:
    return cameras(*(torch.tensor([float(v)]) for v in (azimuth, elevation, radius, fovy)))


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


def test_no_points_and_no_views_give_empty_answers():
    rows = build("frog")
    assert query(rows, torch.zeros(0, 3)).shape == (0, 4)
    assert trace(rows, torch.zeros(0, 12), 8).shape == (0, 8, 8, 8)


@pytest.mark.parametrize("turn", [np.eye(3), rotate_z(37), rotate_x(20) @ rotate_y(50)], ids=["axis", "z", "xy"])
def test_bounds_hold_every_point_inside_and_no_room_beside_an_ellipsoid(turn):
    rows = Solid().ellipsoid((0.1, 0, -0.1), (0.5, 0.2, 0.3), RED, rotation=turn)
    low, high = bounds(np.array(rows._rows, np.float32))
    sphere = np.random.default_rng(0).normal(size=(20000, 3))
    surface = sphere / np.linalg.norm(sphere, axis=1, keepdims=True) * (0.5, 0.2, 0.3) @ turn.T + (0.1, 0, -0.1)
    assert (surface >= low - 1e-5).all() and (surface <= high + 1e-5).all()
    # 20000 points on an ellipsoid come this near to its extremes
    np.testing.assert_allclose(surface.min(0), low, atol=5e-3)
    np.testing.assert_allclose(surface.max(0), high, atol=5e-3)


@pytest.mark.parametrize("name", OBJECTS)
def test_an_object_fills_its_box_in_every_colour_and_proportion(name):
    for seed in range(3):
        for colour in (None, *COLOURS):
            rows = shapes.build(name, colour, rng=np.random.default_rng(seed))
            low, high = bounds(rows)
            assert rows.dtype == np.float32 and rows.shape[1] == ROW and np.isfinite(rows).all()
            np.testing.assert_allclose(low, -high, atol=1e-5)  # centred
            assert high.max() == pytest.approx(0.45, abs=1e-5)
            assert ((rows[:, 18:] >= 0) & (rows[:, 18:] <= 1)).all()


@pytest.mark.parametrize("name", OBJECTS)
def test_an_object_is_where_its_bounds_say(name):
    rows, line = build(name), torch.linspace(-0.6, 0.6, 49)
    grid = torch.cartesian_prod(line, line, line)
    inside = grid[query(rows, grid)[:, 0] < 0]
    assert inside.abs().max() < 0.45 + 0.03  # a smooth union bulges by a quarter of its radius, at most 0.1
    assert (inside.amax(0) - inside.amin(0)).max() > 0.75  # 0.9, less what the boxes of turned parts exaggerate


@pytest.mark.parametrize("name", OBJECTS)
def test_variants_of_an_object_differ_and_follow_from_the_generator(name):
    assert (shapes.build(name, rng=np.random.default_rng(1)) == shapes.build(name, rng=np.random.default_rng(1))).all()
    other = shapes.build(name, rng=np.random.default_rng(2))
    assert not np.allclose(shapes.build(name, rng=np.random.default_rng(1)), other, atol=1e-3)


@pytest.mark.parametrize("name", OBJECTS)
@pytest.mark.parametrize("colour", ["blue", "yellow"])
def test_an_object_wears_the_colour_that_is_asked_for(name, colour):
    albedo = build(name, colour)[:, 18:]
    tint = torch.tensor(COLOURS[colour])
    # 0.1: four standard deviations of the tint's noise; objects darken theirs by up to a quarter
    assert any((albedo - shade * tint).abs().amax(1).min() < 0.1 for shade in (1.0, 0.9, 0.75))


@pytest.mark.parametrize("name", ["frog", "car", "rocket", "snowman", "house"])  # every kind of primitive
def test_the_compiled_tracer_sees_what_the_torch_reference_sees(name):
    if not extension.load("toybox"):
        pytest.skip("no compiler")
    rows = build(name)
    views = torch.cat([view(20, 15), view(140, 50, fovy=26), view(-90, -10, radius=3.0)])
    native, expected = trace(rows, views, 32), reference.trace(rows, views, 32)
    same = native[..., 3] == expected[..., 3]
    assert same.float().mean() > 0.995  # a ray that grazes may arrive in one and just miss in the other
    hit = same & (expected[..., 3] > 0)
    gap = (native - expected)[hit].abs()
    # What rounding decides: whether a grazing ray stops one short step earlier, and which of two parts is nearest.
    assert (gap[:, 7] < 1e-3).float().mean() > 0.99
    assert (gap[:, 4:7].amax(1) < 0.05).float().mean() > 0.98
    assert (gap[:, :3].amax(1) < 1e-6).float().mean() > 0.98
    assert (native[expected[..., 3] + native[..., 3] == 0] == 0).all()


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
    rows, resolution = build("frog"), 48
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


@pytest.mark.parametrize(
    "text, name, colour",
    [
        ("a frog", "frog", None),
        ("A DSLR photo of a Green Frog", "frog", "green"),
        ("the red toad", "frog", "red"),
        ("teddy bear", "bear", None),
        ("a pink teddy bear", "bear", "pink"),
        ("a teddy", "bear", None),
        ("an orange cheeseburger.", "hamburger", "orange"),
        ("a 3D model of a spaceship, blue", "rocket", "blue"),
        ("a cute little cottage", "house", None),
    ],
)
def test_plain_sentences_are_understood(text, name, colour):
    assert parse(text) == (name, colour)


@pytest.mark.parametrize(
    "text, canon",
    [
        ("A photo of a red teddy bear", "a red bear"),
        ("orange toad", "an orange frog"),
        ("a burger", "a hamburger"),
        ("the car", "a car"),
    ],
)
def test_the_canonical_sentence_is_a_caption_of_the_training(text, canon):
    assert canonical(text) == canon


@pytest.mark.parametrize("name", OBJECTS)
def test_every_caption_means_what_it_says(name):
    for colour in (None, *COLOURS):
        assert parse(caption(name, colour)) == (name, colour)
        assert canonical(caption(name, colour)) == caption(name, colour)


@pytest.mark.parametrize(
    "text, parts",
    [
        ("a forg", ["'forg'", "nearest: ", "frog"]),
        ("a gren frog", ["'gren'", "green"]),
        ("a dragon with wings", ["'dragon'", "'with'", "'wings'"]),
        ("a frog, a car", ["one object", "frog and car"]),
        ("a red and blue frog", ["'and'"]),
        ("a red blue frog", ["one colour", "red and blue"]),
        ("a green", ["needs an object"]),
    ],
)
def test_what_is_not_understood_is_one_line_with_the_way_out(text, parts):
    with pytest.raises(ValueError) as caught:
        parse(text)
    line = str(caught.value)
    assert "\n" not in line and line.startswith(f"--text {text!r}")
    for part in [*parts, "--guidance SD", *OBJECTS, *COLOURS]:
        assert part in line


@pytest.mark.parametrize(
    "text, near",
    [
        ("a forg", "; nearest: frog"),
        ("a chiar", "; nearest: car, chair"),
        ("a crown", ""),  # nothing but a colour is near, and what is missing is an object
        ("a dragon with wings", ""),
        ("a gree frog", "; nearest: green"),  # the object is there: not a tree
    ],
)
def test_hint_is_what_the_sentence_may_have_meant_or_nothing(text, near):
    with pytest.raises(ValueError) as caught:
        parse(text)
    assert f"'{near}. It knows" in str(caught.value)


def test_every_word_of_every_prompt_is_in_the_vocabulary():
    known = set(vocabulary())
    for name in OBJECTS:
        for colour in (None, *COLOURS):
            for text in view_prompts(caption(name, colour)):
                assert set(words.words_of(text)) <= known
    for phrase in words.PHRASINGS:
        assert set(words.words_of(phrase)) <= known
    assert all(set(words.words_of(suffix)) <= known for suffix in VIEW_WORDS)


def test_training_pictures_follow_from_the_seed():
    first, again = (pictures.sample(np.random.default_rng(3), views=1) for _ in range(2))
    other = pictures.sample(np.random.default_rng(4), views=1)
    assert (first.images == again.images).all() and (first.azimuth == again.azimuth).all()
    assert not (first.images == other.images).all()


def test_training_pictures_have_their_shapes_and_ranges():
    made = pictures.sample(np.random.default_rng(0), views=2, shadings=3)
    assert made.images.shape == (6, 3, pictures.SIZE, pictures.SIZE) and made.images.dtype == np.uint8
    for column in (made.objects, made.colours, made.azimuth, made.elevation):
        assert column.shape == (6,)
    assert (np.abs(made.azimuth) <= 180).all() and (np.abs(made.elevation) <= 90).all()
    assert (made.azimuth[:3] == made.azimuth[0]).all() and made.azimuth[0] != made.azimuth[3]  # shadings of one view
    assert 0 <= made.objects[0] < len(OBJECTS) and -1 <= made.colours[0] < len(COLOURS)


def test_shading_is_lambert_with_ambient_light_and_nothing_where_nothing_is():
    buffers = torch.zeros(1, 3, 8)
    buffers[0, :2, :3], buffers[0, :2, 3] = torch.tensor([0.8, 0.4, 0.2]), 1
    buffers[0, 0, 4:7], buffers[0, 1, 4:7] = torch.tensor([0.0, 0, 1]), torch.tensor([0.0, 0, -1])
    light = torch.tensor([0.0, 0.6, 0.8])
    albedo, lit, plain = (
        pictures.shade(buffers, mode, 0.3, light)[0] for mode in ("albedo", "lambertian", "textureless")
    )
    assert_close(albedo, torch.tensor([[0.8, 0.4, 0.2]] * 2 + [[0.0] * 3]))
    factor = 0.3 + 0.7 * 0.8  # towards the light, and away from it only the ambient part
    assert_close(lit, torch.tensor([[0.8 * factor, 0.4 * factor, 0.2 * factor], [0.24, 0.12, 0.06], [0.0] * 3]))
    assert_close(plain, torch.tensor([[factor] * 3, [0.3] * 3, [0.0] * 3]))


def test_half_a_pixel_shows_half_the_background():
    colour, hit = torch.zeros(2, 2, 3), torch.zeros(2, 2, 1)
    colour[0], hit[0] = torch.tensor(RED), 1
    assert_close(pictures.compose(colour, hit, torch.ones(3))[0, 0], (torch.tensor(RED) + 1) / 2)
