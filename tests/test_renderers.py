"""How both renderers behave: gradients, seeds, samples, state, options."""

import pytest
import torch
from torch.testing import assert_close

import scenes
from nerf.cameras import generate_rays
from nerf.fields import BackgroundNetwork, VanillaField
from nerf.renderers import RaymarchRenderer, StratifiedRenderer
from nerf.types import Shading
from raymarching import composite_rays_train
from renderer_case import RENDERERS, packed, same_picture, seed, small_field, stratified

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
