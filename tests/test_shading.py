import math

import pytest
import torch
from torch.testing import assert_close

import scenes
from nerf.shading import needs_normals, per_sample, shade, view_lights
from nerf.types import Shading

ALBEDO = torch.tensor([[0.2, 0.4, 0.6], [1.0, 0.5, 0.0]])
NORMALS = torch.tensor([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0]])


def lights_at(degrees):
    """Light in the plane of y and z, so many degrees from z."""
    angle = math.radians(degrees)
    return torch.tensor([[0.0, math.sin(angle), math.cos(angle)]]).expand(2, 3)


def test_albedo_shading_is_the_albedo():
    assert_close(shade(Shading("albedo"), ALBEDO, None, None), ALBEDO)


def test_lambertian_shading_follows_the_cosine():
    colour = shade(Shading("lambertian", ambient=0.25), ALBEDO, NORMALS, lights_at(60))
    expected = torch.stack([ALBEDO[0] * (0.25 + 0.75 * 0.5), ALBEDO[1] * (0.25 + 0.75 * math.sqrt(3) / 2)])
    assert_close(colour, expected)


def test_surfaces_turned_away_get_ambient_light_only():
    colour = shade(Shading("lambertian", ambient=0.1), ALBEDO, -NORMALS, lights_at(30))
    assert_close(colour, 0.1 * ALBEDO)


def test_textureless_shading_is_lambertian_on_white():
    light = lights_at(45)
    white = shade(Shading("lambertian", ambient=0.3), torch.ones_like(ALBEDO), NORMALS, light)
    assert_close(shade(Shading("textureless", ambient=0.3), ALBEDO, NORMALS, light), white)


def test_full_ambient_light_leaves_the_albedo():
    assert_close(shade(Shading("lambertian", ambient=1.0), ALBEDO, NORMALS, lights_at(80)), ALBEDO)


def test_normal_shading_maps_the_unit_cube_to_colours():
    expected = torch.tensor([[0.5, 0.5, 1.0], [0.5, 1.0, 0.5]])
    assert_close(shade(Shading("normal"), ALBEDO, NORMALS, None), expected)


@pytest.mark.parametrize(("mode", "expected"), [("albedo", False), ("lambertian", True), ("textureless", True)])
def test_normals_are_needed_only_where_light_falls(mode, expected):
    assert needs_normals(Shading(mode)) is expected


def test_unknown_shading_is_named():
    with pytest.raises(ValueError, match="'phong'.*lambertian"):
        needs_normals(Shading("phong"))


def test_light_comes_from_the_camera_by_default():
    lights = view_lights(Shading("lambertian"), scenes.cameras(azimuth=(0.0, 90.0)))
    assert_close(lights, torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]), atol=1e-6, rtol=0)


def test_given_lights_are_made_unit_length():
    lights = view_lights(Shading("lambertian", light=torch.tensor([[0.0, 2.0, 0.0]])), scenes.cameras())
    assert_close(lights, torch.tensor([[0.0, 1.0, 0.0]]))


def test_values_of_a_view_reach_all_its_samples():
    values = torch.tensor([[1.0], [2.0]])
    counts = torch.tensor([2, 0, 1, 3], dtype=torch.int32)  # two rays a view
    assert per_sample(values, counts, 6)[:, 0].tolist() == [1.0, 1.0, 2.0, 2.0, 2.0, 2.0]


@pytest.mark.parametrize("samples, expected", [(8, [1, 1, 2, 2, 2, 2, 2, 2]), (3, [1, 1, 2]), (1, [1]), (0, [])])
def test_rows_behind_the_samples_are_the_last_views_and_missing_ones_are_left_out(samples, expected):
    values, counts = torch.tensor([[1.0], [2.0]]), torch.tensor([2, 0, 1, 3], dtype=torch.int32)
    assert per_sample(values, counts, samples)[:, 0].tolist() == expected
