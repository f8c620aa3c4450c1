"""What both renderers see: closed forms, backgrounds, lights."""

import pytest
import torch
from torch.testing import assert_close

import scenes
from nerf.cameras import generate_rays
from nerf.fields import BackgroundNetwork
from nerf.types import Shading
from renderer_case import RENDERERS, STEP, packed, same_picture, seed, stratified

# ---- closed forms ----


@RENDERERS
def test_a_ball_covers_the_disc_it_should(build):
    out = build(scenes.Ball()).render(scenes.cameras(height=64, width=64))
    expected = scenes.disc_pixels(0.5, 3.0, 40.0, 64)
    # 1.5 %: a ray that grazes the ball by less than a step may miss it
    assert float((out.opacity > 0.5).sum()) == pytest.approx(expected, rel=0.015)


@RENDERERS
def test_depth_of_a_ball_is_the_distance_to_its_front(build):
    out = build(scenes.Ball()).render(scenes.cameras(height=33, width=33))
    assert_close(out.opacity[0, 16, 16, 0], torch.tensor(1.0), atol=1e-3, rtol=0)
    assert_close(out.depth[0, 16, 16, 0], torch.tensor(2.5), atol=STEP, rtol=0)
    assert_close(out.rgb[0, 16, 16], torch.tensor(scenes.COLOUR), atol=1e-3, rtol=0)


@RENDERERS
def test_constant_fog_has_closed_form_transmittance(build):
    renderer, cameras = build(scenes.Fog(0.7)), scenes.cameras(azimuth=(20.0,), elevation=30.0)
    out = renderer.render(cameras)
    rays = generate_rays(cameras, renderer.aabb, renderer.min_near)
    expected = 1 - torch.exp(-0.7 * (rays.far - rays.near))
    # A packed ray ends with a whole step, up to half a step too long or too short; stratified intervals add up exactly.
    tolerance = 0.7 * STEP if build is packed else 1e-5
    assert_close(out.opacity.flatten(), expected, atol=tolerance, rtol=0)


@RENDERERS
def test_depth_of_thin_fog_is_its_mean_distance(build):
    out = build(scenes.Fog(1e-2)).render(scenes.cameras(height=1, width=1, fovy=1.0))
    # Thin enough that absorption is uniform along the ray from 2 to 4.
    assert_close(out.depth / out.opacity, torch.full((1, 1, 1, 1), 3.0), atol=STEP, rtol=0)


@RENDERERS
def test_normals_of_a_ball_face_the_camera(build):
    out = build(scenes.Ball()).render(scenes.cameras((90.0,), height=33, width=33), need_normals=True)
    assert_close(out.normal[0, 16, 16], torch.tensor([1.0, 0.0, 0.0]), atol=2e-2, rtol=0)
    assert_close(out.normal[0, 0, 0], torch.zeros(3))  # premultiplied: nothing where nothing was hit


def test_both_renderers_see_the_same():
    field = scenes.Ball(sigma=30.0, softness=0.05)
    cameras = scenes.cameras((0.0, 130.0), elevation=25.0)
    shading = Shading("lambertian", ambient=0.2, light=torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]]))
    # Every cell and every normal of the soft rim counts here; 1.5 %: both integrate it with finite steps.
    thorough = packed(field, density_thresh=0.01, normal_weight=0.0)
    same_picture(thorough.render(cameras, shading), stratified(field).render(cameras, shading), 0.015)


def test_a_larger_box_is_seen_whole():
    field = scenes.Ball(radius=1.5, bound=2.0)
    out = packed(field).render(scenes.cameras(radius=6.0, height=64, width=64))
    assert float((out.opacity > 0.5).sum()) == pytest.approx(scenes.disc_pixels(1.5, 6.0, 40.0, 64), rel=0.015)
    assert_close(out.depth[0, 32, 32, 0], torch.tensor(4.5), atol=2 * STEP, rtol=0)


# ---- background ----


@RENDERERS
def test_an_empty_scene_is_the_background_exactly(build):
    background = torch.rand(2, 5, 7, 3, generator=seed())
    cameras = scenes.cameras((0.0, 77.0), height=5, width=7)
    out = build(scenes.Fog(0.0)).render(cameras, Shading("lambertian"), background=background, generator=seed())
    assert torch.equal(out.rgb, background)
    for picture in (out.opacity, out.depth, out.normal):
        assert not picture.any()


def test_an_empty_scene_has_no_packed_samples():
    out = packed(scenes.Fog(0.0)).render(scenes.cameras())
    assert len(out.samples["weights"]) == 0 and not out.samples["packed_info"][:, 1].any()


def test_background_is_white_without_a_network():
    assert torch.all(packed(scenes.Fog(0.0)).render(scenes.cameras()).rgb == 1)


def test_background_may_be_a_colour_a_colour_a_view_or_a_picture():
    renderer, cameras = packed(scenes.Fog(0.3)), scenes.cameras((0.0, 90.0), height=4, width=6)
    colours = torch.tensor([[0.1, 0.2, 0.3], [0.9, 0.8, 0.7]])
    per_view = renderer.render(cameras, background=colours).rgb
    picture = colours[:, None, None].expand(2, 4, 6, 3)
    assert torch.equal(renderer.render(cameras, background=picture).rgb, per_view)
    assert torch.equal(renderer.render(cameras, background=colours[0]).rgb[0], per_view[0])


def test_a_background_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"background is \[3\].*\[4\]"):
        packed(scenes.Fog(0.0)).render(scenes.cameras(), background=torch.zeros(4))


def test_the_background_network_is_seen_through_the_gaps():
    network, cameras = BackgroundNetwork(), scenes.cameras(height=5, width=7)
    renderer = packed(scenes.Fog(0.0), network)
    rays = generate_rays(cameras, renderer.aabb, renderer.min_near)
    assert torch.equal(renderer.render(cameras).rgb.view(-1, 3), network(rays.directions))


# ---- light ----


def test_every_view_has_its_own_light():
    renderer, cameras = packed(scenes.Ball()), scenes.cameras((0.0, 90.0))
    lights = torch.tensor([[0.0, 1.0, 0.0], [0.0, -1.0, 0.0]])
    both = renderer.render(cameras, Shading("textureless", 0.1, lights)).rgb
    for view, azimuth in enumerate((0.0, 90.0)):
        alone = renderer.render(scenes.cameras((azimuth,)), Shading("textureless", 0.1, lights[view : view + 1])).rgb
        assert_close(both[view], alone[0], atol=1e-5, rtol=0)
    assert both[0, 10, 16].mean() > both[0, 21, 16].mean() + 0.2  # lit from above
    assert both[1, 10, 16].mean() < both[1, 21, 16].mean() - 0.2  # lit from below
