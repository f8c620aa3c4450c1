"""The objects: sizes, colours, variation, and what they wear and stand on."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from toybox import shapes
from toybox.captions import Caption
from toybox.primitives import ROW, SPOTS, Solid, bounds, extents, rotate_x, rotate_y, rotate_z
from toybox.tracer import cameras, query, trace
from toybox.words import COLOURS, OBJECTS, SUPPORTS, WORN

RED, GREEN = (0.9, 0.1, 0.1), (0.1, 0.9, 0.1)
WEARERS = [name for name, word in OBJECTS.items() if word.wears]


def build(name, seed=0, **said) -> np.ndarray:
    return shapes.build(Caption(name, **said), rng=np.random.default_rng(seed))


@pytest.mark.parametrize("turn", [np.eye(3), rotate_z(37), rotate_x(20) @ rotate_y(50)], ids=["axis", "z", "xy"])
def test_bounds_hold_every_point_inside_and_no_room_beside_an_ellipsoid(turn):
    rows = np.array(Solid().ellipsoid((0.1, 0, -0.1), (0.5, 0.2, 0.3), RED, rotation=turn)._rows, np.float32)
    sphere = np.random.default_rng(0).normal(size=(20000, 3))
    surface = sphere / np.linalg.norm(sphere, axis=1, keepdims=True) * (0.5, 0.2, 0.3) @ turn.T + (0.1, 0, -0.1)
    aslant = np.array([[0.6, 0.64, 0.48]], np.float32)
    for low, high, along in ((*bounds(rows), surface), (*extents(rows, aslant), surface @ aslant.T)):
        assert (along >= low - 1e-5).all() and (along <= high + 1e-5).all()
        # 20000 points on an ellipsoid come this near to its extremes
        np.testing.assert_allclose(along.min(0), low, atol=5e-3)
        np.testing.assert_allclose(along.max(0), high, atol=5e-3)


@pytest.mark.parametrize("kind", ["box", "cylinder", "cone", "torus"])
def test_bounds_of_a_turned_primitive_are_where_its_distance_ends(kind):
    solid, turn = Solid(), rotate_x(40) @ rotate_z(25)
    sizes = {"box": ((0.4, 0.2, 0.3),), "cylinder": (0.3, 0.4), "cone": (0.3, 0.4, 0.1), "torus": (0.3, 0.1)}
    extra = {"rounding": 0.0} if kind in ("box", "cylinder") else {}
    getattr(solid, kind)((0.05, 0, -0.1), *sizes[kind], RED, rotation=turn, **extra)
    rows, line = np.array(solid._rows, np.float32), torch.linspace(-0.7, 0.7, 113)
    grid = torch.cartesian_prod(line, line, line)
    inside = grid[query(torch.from_numpy(rows), grid)[:, 0] < 0].numpy()
    low, high = bounds(rows)
    assert (inside >= low - 1e-5).all() and (inside <= high + 1e-5).all()
    np.testing.assert_allclose([inside.min(0), inside.max(0)], [low, high], atol=0.03)  # a corner between grid points


@pytest.mark.parametrize("name", OBJECTS)
def test_an_object_is_centred_and_as_large_as_the_picture_allows(name):
    for seed in range(3):
        for colour in (None, *COLOURS):
            rows = build(name, seed, colour=colour)
            low, high = bounds(rows)
            assert rows.dtype == np.float32 and rows.shape[1] == ROW and np.isfinite(rows).all()
            np.testing.assert_allclose(low, -high, atol=1e-5)
            assert 0.3 < high.max() <= 0.45 + 1e-5
            assert ((rows[:, 18:21] >= 0) & (rows[:, 18:21] <= 1)).all()


@pytest.mark.parametrize("name", OBJECTS)
def test_an_object_stays_inside_the_picture(name):
    azimuth = torch.arange(0, 360, 30.0)
    views = cameras(azimuth, torch.full_like(azimuth, 20), torch.full_like(azimuth, 3.2), torch.full_like(azimuth, 20))
    seen = trace(torch.from_numpy(build(name)), views, 32)[..., 3]
    border = torch.cat([seen[:, 0], seen[:, -1], seen[:, :, 0], seen[:, :, -1]])
    assert border.mean() < 0.01  # a corner may touch it


@pytest.mark.parametrize("name", OBJECTS)
def test_an_object_is_where_its_bounds_say(name):
    rows, line = build(name), torch.linspace(-0.6, 0.6, 49)
    grid = torch.cartesian_prod(line, line, line)
    inside = grid[query(torch.from_numpy(rows), grid)[:, 0] < 0]
    _, high = bounds(rows)
    assert inside.abs().max() < high.max() + 0.03  # a smooth union bulges by a quarter of its radius, at most 0.1
    # 0.15: what the boxes of turned parts exaggerate, and two cells of the grid
    assert (inside.amax(0) - inside.amin(0)).max() > 2 * high.max() - 0.15


@pytest.mark.parametrize("name", OBJECTS)
def test_variants_of_an_object_differ_and_follow_from_the_generator(name):
    assert (build(name, 1) == build(name, 1)).all()
    first, other = build(name, 1), build(name, 2)
    assert first.shape != other.shape or not np.allclose(first, other, atol=1e-3)


@pytest.mark.parametrize("name", OBJECTS)
def test_an_object_has_the_colour_that_is_asked_for(name):
    for colour in ("blue", "yellow"):
        # 0.2: four standard deviations of how light the tint is
        hues = build(name, colour=colour)[:, 18:21] / np.array(COLOURS[colour])
        assert (np.abs(hues - hues.mean(1, keepdims=True)).max(1) < 0.2).any()


@pytest.mark.parametrize("name", OBJECTS)
def test_a_pattern_is_on_the_object_and_not_on_what_it_wears_or_stands_on(name):
    plain, spotted = build(name, support="box"), build(name, pattern="spotted", support="box")
    assert (plain[:, 21] == 0).all()
    assert (spotted[:, 21] == SPOTS).any() and (spotted[-1, 21] == 0).all()
    np.testing.assert_array_equal(plain[:, :21], spotted[:, :21])


@pytest.mark.parametrize("worn", WORN)
@pytest.mark.parametrize("name", WEARERS)
def test_what_is_worn_adds_to_the_object_touches_it_and_has_its_colour(name, worn):
    bare, dressed = build(name), build(name, worn=worn, worn_colour="turquoise")
    added = dressed[len(bare) :]
    assert len(added) >= 1
    hues = added[:, 18:21] / np.array(COLOURS["turquoise"])
    assert (np.abs(hues - hues.mean(1, keepdims=True)).max(1) < 0.2).any()
    low, high = bounds(added)
    at = torch.from_numpy(np.random.default_rng(0).uniform(low - 0.02, high + 0.02, (20000, 3)).astype(np.float32))
    gap = query(torch.from_numpy(dressed[: len(bare)]), at)[:, 0].clamp(min=0)
    inside = query(torch.from_numpy(added), at)[:, 0].clamp(min=0)
    assert float((gap + inside).min()) < 0.02  # some point is in both, or nearly


@pytest.mark.parametrize("support", SUPPORTS)
@pytest.mark.parametrize("name", OBJECTS)
def test_a_support_is_below_the_object_and_touches_it(name, support):
    bare = build(name)
    standing = build(name, support=support)
    object_low, support_low = bounds(standing[: len(bare)])[0][1], bounds(standing[len(bare) :])[0][1]
    assert support_low < object_low - 0.01
    assert bounds(standing[len(bare) :])[1][1] > object_low - 0.02


@pytest.mark.parametrize("name", OBJECTS)
def test_what_wears_has_a_head_and_a_neck_and_nothing_else_has(name):
    maker = shapes.maker(name)
    solid = maker(np.random.default_rng(0), COLOURS["red"])
    assert (solid.head is not None) == (solid.neck is not None) == OBJECTS[name].wears


def test_grey_stays_grey_in_every_variant():
    for seed in range(20):
        tint = shapes.tint(np.random.default_rng(seed), "grey", None)
        assert max(tint) - min(tint) < 0.08


@pytest.mark.parametrize("name", OBJECTS)
def test_what_is_not_called_one_sided_is_its_own_mirror_image(name, compiled):
    """By the silhouette from the front; spots, and the leaves of a pineapple, are anywhere."""
    rig, differ = cameras([0.0], [15.0], [3.2], [20.0]), []
    for seed in range(3):
        hit = torch.stack(list(trace(torch.from_numpy(build(name, seed)), rig, 64)))[..., 3]
        differ.append(((hit - hit.flip(-1)).abs().sum() / hit.sum()).item())
    assert (max(differ) > 0.22) == OBJECTS[name].one_sided
