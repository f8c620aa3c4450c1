import math

import pytest
import torch
from torch.testing import assert_close

import scenes
from nerf.cameras import generate_rays
from nerf.fields import BackgroundNetwork, HashGridField, VanillaField
from nerf.renderers import RaymarchRenderer, StratifiedRenderer
from nerf.renderers.stratified import composite, interval_edges, sample_pdf, stratify
from nerf.types import Shading
from raymarching import composite_rays_train

STEP = 2 * math.sqrt(3) / 256  # length of a step of the packed renderer below, scene units


def packed(field, background=None, **options):
    renderer = RaymarchRenderer(field, background, **{"max_steps": 256, "resolution": 32, **options})
    renderer.update(0)
    return renderer


def stratified(field, background=None, **options):
    return StratifiedRenderer(field, background, **{"num_steps": 192, "upsample_steps": 64, **options})


RENDERERS = pytest.mark.parametrize("build", [packed, stratified])


def seed(value=0):
    return torch.Generator().manual_seed(value)


def small_field(**options):
    blob = {"blob_density": 6.0, "blob_radius": 0.5, **options}
    field = HashGridField(num_levels=4, log2_hashmap_size=10, desired_resolution=32, hidden_dim=16, **blob)
    with torch.no_grad():
        field.encoder.embeddings.uniform_(-0.5, 0.5, generator=seed(9))
    return field


def same_picture(one, other, tolerance):
    for name in ("rgb", "opacity", "depth", "normal"):
        a, b = getattr(one, name), getattr(other, name)
        if a is None and b is None:
            continue
        assert_close(a, b, atol=tolerance, rtol=0, msg=lambda text, name=name: f"{name}: {text}")


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


# ---- gradients ----


@RENDERERS
@pytest.mark.parametrize("mode", ["albedo", "lambertian", "normal"])
@pytest.mark.parametrize("normal_mode", ["finite", "analytic"])
def test_every_parameter_gets_a_gradient(build, mode, normal_mode):
    options = {} if build is packed else {"num_steps": 24, "upsample_steps": 8}
    renderer = build(small_field(normal_mode=normal_mode), BackgroundNetwork(), **options)
    out = renderer.render(scenes.cameras(height=12, width=12), Shading(mode, ambient=0.5), generator=seed())
    (out.rgb * torch.randn(out.rgb.shape, generator=seed(1))).sum().backward()
    for name, parameter in renderer.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_the_vanilla_field_renders_and_learns():
    renderer = packed(VanillaField(degree=3, hidden_dim=8, num_layers=1, blob_radius=0.5))
    out = renderer.render(scenes.cameras(height=8, width=8), Shading("lambertian"))
    assert out.opacity.max() > 0.5
    out.rgb.square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in renderer.parameters())


def test_samples_behind_the_end_of_a_ray_change_neither_picture_nor_gradient():
    cameras = scenes.cameras((0.0, 60.0), height=24, width=24)
    renderer = packed(small_field(blob_density=9.0))
    out = renderer.render(cameras, generator=seed(3), background=torch.zeros(3))
    whole = renderer.march(generate_rays(cameras, renderer.aabb, renderer.min_near), seed(3))
    values = renderer.field.query(whole.positions)
    _, opacity, depth, rgb = composite_rays_train(*values, whole.ts, whole.packed_info)
    assert len(out.samples["weights"]) < 0.8 * len(whole.ts)
    for actual, expected in ((out.opacity, opacity), (out.depth, depth), (out.rgb, rgb)):
        assert_close(actual.view(-1), expected.view(-1), atol=1e-6, rtol=0)
    cotangent = torch.randn(out.rgb.shape, generator=seed(1))
    parameters = list(renderer.parameters())
    reached = torch.autograd.grad(out.rgb, parameters, cotangent)
    for one, other in zip(reached, torch.autograd.grad(rgb, parameters, cotangent.view(-1, 3)), strict=True):
        # Sums of 10^4 terms in another order
        assert_close(one, other, atol=1e-5 * float(other.abs().max()), rtol=1e-3)


# ---- with and without gradients, with and without jitter ----


@RENDERERS
@pytest.mark.parametrize("mode", ["albedo", "lambertian"])
def test_pictures_are_the_same_without_gradients(build, mode):
    renderer = build(small_field(), max_ray_batch=100)  # several bundles a view, the last one smaller
    cameras = scenes.cameras((0.0, 45.0, 200.0), elevation=20.0, height=16, width=20)
    training = renderer.render(cameras, Shading(mode, 0.3))
    with torch.no_grad():
        same_picture(renderer.eval().render(cameras, Shading(mode, 0.3)), training, 1e-3)


@RENDERERS
def test_a_seed_fixes_the_picture_and_another_changes_it(build):
    renderer, cameras = build(small_field()), scenes.cameras(height=12, width=12)
    one, same, other = (renderer.render(cameras, generator=seed(s)).rgb for s in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@RENDERERS
def test_jitter_moves_no_mean(build):
    renderer, cameras = build(scenes.Ball(sigma=20.0, softness=0.05)), scenes.cameras(height=8, width=8)
    steady = renderer.render(cameras).opacity
    generator = seed()
    mean = torch.stack([renderer.render(cameras, generator=generator).opacity for _ in range(16)]).mean(0)
    assert_close(mean, steady, atol=0.02, rtol=0)  # 16 draws of a rim that varies by some hundredths


@RENDERERS
def test_pictures_need_not_be_square(build):
    out = build(scenes.Ball()).render(scenes.cameras(height=24, width=48))
    assert out.rgb.shape == (1, 24, 48, 3) and out.opacity.shape == (1, 24, 48, 1)
    hit = (out.opacity[0, ..., 0] > 0.5).nonzero().float()
    assert_close(hit.mean(0), torch.tensor([11.5, 23.5]), atol=0.1, rtol=0)
    extent = hit.amax(0) - hit.amin(0)
    assert abs(float(extent[0] - extent[1])) <= 1  # a ball stays round


# ---- samples, state, options ----


@RENDERERS
def test_samples_add_up_to_the_picture(build):
    out = build(small_field()).render(scenes.cameras(height=8, width=8), Shading("lambertian"), generator=seed())
    first, count = out.samples["packed_info"].long().unbind(1)
    weights = out.samples["weights"]
    assert int(count.sum()) == len(weights)
    per_ray = torch.stack([weights[f : f + c].sum() for f, c in zip(first, count, strict=True)])
    assert_close(per_ray, out.opacity.flatten(), atol=1e-5, rtol=0)
    for name in ("positions", "directions", "normals"):
        assert out.samples[name].shape == (len(weights), 3)
    assert out.samples["sigmas"].shape == (len(weights),) and out.samples["ts"].shape == (len(weights), 2)


@RENDERERS
def test_normals_come_only_when_asked_for(build):
    renderer, cameras = build(scenes.Ball()), scenes.cameras(height=4, width=4)
    plain, asked = renderer.render(cameras), renderer.render(cameras, need_normals=True)
    assert plain.normal is None and "normals" not in plain.samples
    assert asked.normal is not None and "normals_perturbed" not in asked.samples
    same_picture(asked, type(asked)(asked.rgb, plain.opacity, plain.depth, asked.normal), 1e-6)


@RENDERERS
def test_perturbed_normals_belong_to_points_nearby(build):
    out = build(scenes.Ball()).render(scenes.cameras(height=8, width=8), perturb_normals=True, generator=seed())
    chosen = out.samples["weights"] > 1e-3
    cosine = (out.samples["normals"] * out.samples["normals_perturbed"]).sum(1)[chosen]
    assert 0.98 < cosine.mean() < 1.0  # 0.01 aside on a ball of 0.5 turns a normal by about a degree


def test_occupancy_is_refreshed_every_interval():
    renderer = RaymarchRenderer(scenes.Ball(), resolution=8, update_interval=4)
    for step in range(9):
        renderer.update(step)
    assert int(renderer.occupancy.updates) == 3


def test_the_state_of_a_renderer_holds_its_occupancy():
    one, other = packed(small_field()), RaymarchRenderer(small_field(), max_steps=256, resolution=32)
    other.load_state_dict(one.state_dict())
    cameras = scenes.cameras(height=8, width=8)
    assert torch.equal(one.render(cameras).rgb, other.render(cameras).rgb)


@pytest.mark.parametrize("made, opened", [(packed, stratified), (stratified, packed)])
def test_the_state_of_one_renderer_opens_in_another(made, opened):
    one, elsewhere = made(scenes.Ball()), opened(scenes.Ball(centre=(9.0, 9.0, 9.0)))  # outside of the box
    elsewhere.load_state_dict(one.state_dict())
    cameras = scenes.cameras(height=64, width=64)
    found, expected = (float(r.render(cameras).opacity.sum()) for r in (elsewhere, opened(scenes.Ball())))
    assert found == pytest.approx(expected, rel=0.02)  # of cells at the rim two grids have seen different points


@pytest.mark.parametrize(
    ("build", "options", "message"),
    [
        (RaymarchRenderer, {"max_steps": 0}, "at least 1 step"),
        (RaymarchRenderer, {"update_interval": 0}, "update interval"),
        (RaymarchRenderer, {"max_ray_batch": 0}, "at least 1 ray"),
        (StratifiedRenderer, {"num_steps": 0}, "num_steps"),
    ],
)
def test_impossible_options_are_refused(build, options, message):
    with pytest.raises(ValueError, match=message):
        build(scenes.Fog(0.0), **options)


# ---- the parts of the stratified renderer ----


def test_strata_hold_one_sample_each():
    near, far = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 2.0])
    t = stratify(near, far, 10, seed())
    assert torch.equal(((t[0] - 1.0) / 0.2).long(), torch.arange(10))
    assert torch.all(t[1] == 2.0)  # a ray that misses


def test_intervals_add_up_to_the_ray():
    near, far = torch.tensor([1.0]), torch.tensor([3.0])
    edges = interval_edges(stratify(near, far, 7, seed()), near, far)
    assert_close(edges.diff(dim=1).sum(1), far - near)


def test_importance_samples_go_where_the_weight_is():
    edges = torch.linspace(0.0, 1.0, 5).expand(1, 5)
    t = sample_pdf(edges, torch.tensor([[0.0, 3.0, 0.0, 1.0]]), 1000, seed())
    share = torch.histc(t, 4, 0.0, 1.0) / 1000
    assert_close(share, torch.tensor([0.0, 0.75, 0.0, 0.25]), atol=2e-3, rtol=0)  # stratified: one draw in a thousand
    assert (t.diff(dim=1) >= 0).all()


def test_importance_without_weight_is_uniform():
    t = sample_pdf(torch.linspace(0.0, 1.0, 5).expand(1, 5), torch.zeros(1, 4), 4, None)
    assert_close(t, torch.tensor([[0.125, 0.375, 0.625, 0.875]]))


def test_weights_follow_the_product_of_transmittances():
    sigmas, lengths = torch.rand(3, 6, generator=seed()) * 5, torch.rand(3, 6, generator=seed(1))
    expected, through = torch.zeros(3, 6), torch.ones(3)
    for i in range(6):
        alpha = 1 - torch.exp(-sigmas[:, i] * lengths[:, i])
        expected[:, i] = through * alpha
        through = through * (1 - alpha)
    assert_close(composite(sigmas, lengths), expected)
