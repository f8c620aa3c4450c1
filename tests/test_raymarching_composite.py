"""raymarching: compositing, forwards and backwards."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

import cases
import extension
import raymarching
from raymarching import reference

SIZES = [0, 1, 31, 257]  # rays: none, one, around a warp and a block


def one_ray(sigmas, dt, device):
    """Samples of equal length on one ray that starts at distance 1."""
    count = len(sigmas)
    t = 1 + dt * (torch.arange(count, device=device) + 0.5)
    ts = torch.stack([t, torch.full_like(t, dt)], 1)
    return ts, torch.tensor([[0, count]], dtype=torch.int32, device=device)


def random_rays(rays, device, channels=3):
    sigmas, rgbs, ts, packed_info = cases.packed_samples(rays, channels=channels, device=device)
    return sigmas.requires_grad_(), rgbs.requires_grad_(), ts, packed_info


@pytest.mark.parametrize("sigma", [0.1, 1.0, 5.0])
def test_constant_fog_has_closed_form_transmittance_and_depth(device, sigma):
    count, length = 2000, 2.0
    sigmas = torch.full((count,), sigma, device=device)
    ts, packed_info = one_ray(sigmas, length / count, device)
    rgbs = torch.full((count, 3), 0.25, device=device)
    weights, opacity, depth, rgb = raymarching.composite_rays_train(sigmas, rgbs, ts, packed_info, 0.0)
    through = math.exp(-sigma * length)
    expected = 1 - through + (1 - through * (1 + sigma * length)) / sigma  # integral of sigma t exp(-sigma (t - 1))
    assert_close(opacity.item(), 1 - through, atol=1e-5, rtol=0)  # 2000 float32 sums
    assert_close(weights.sum().item(), 1 - through, atol=1e-5, rtol=0)
    assert_close(depth.item(), expected, atol=2e-5, rtol=1e-4)
    assert_close(rgb, torch.full_like(rgb, 0.25 * (1 - through)), atol=1e-5, rtol=0)


def test_a_solid_sphere_is_as_far_away_as_its_surface(device):
    radius, origins = 0.5, torch.tensor([[0.0, 0.0, 3.0]], device=device).expand(257, 3).contiguous()
    directions = torch.nn.functional.normalize(0.3 * (cases.points(257, device=device) - 0.5) - origins, dim=1)
    box = torch.tensor([-1.0, -1.0, -1.0, 1.0, 1.0, 1.0], device=device)
    nears, fars = raymarching.near_far_from_aabb(origins, directions, box, 0.1)
    full = torch.full((32**3 // 8,), 255, dtype=torch.uint8, device=device)
    xyzs, _, ts, packed_info = raymarching.march_rays_train(origins, directions, 1.0, full, 1, 32, nears, fars)
    sigmas = torch.where(xyzs.norm(dim=1) < radius, 1e4, 0.0)
    _, opacity, depth, _ = raymarching.composite_rays_train(sigmas, xyzs, ts, packed_info)
    b = (origins * directions).sum(1)
    surface = -b - (b * b - (origins * origins).sum(1) + radius**2).sqrt()
    assert_close(opacity, torch.ones_like(opacity))
    behind = (depth - surface) / ts[0, 1]  # the first sample inside is less than a step behind the surface
    assert behind.min() > -0.01 and behind.max() < 1.01 and 0.4 < behind.mean() < 0.6


@pytest.mark.parametrize("min_transmittance", [0.0, 0.2])
def test_reference_has_the_gradient_of_finite_differences(min_transmittance):
    sigmas, rgbs, ts, packed_info = cases.packed_samples(5, longest=6, dtype=torch.float64, channels=2)
    sigmas = (3 * sigmas).requires_grad_()  # dense enough for rays to stop early
    rgbs.requires_grad_()
    weights, *_ = reference.composite_rays_train(sigmas, rgbs, ts, packed_info, min_transmittance)
    assert bool((weights == 0).any()) == (min_transmittance > 0)

    def composite(sigmas, rgbs):
        return raymarching.composite_rays_train(sigmas, rgbs, ts, packed_info, min_transmittance)

    assert torch.autograd.gradcheck(composite, (sigmas, rgbs))


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("rays", SIZES)
def test_compositing_matches_reference(device, rays, channels):
    sigmas, rgbs, ts, packed_info = random_rays(rays, device, channels)
    got = raymarching.composite_rays_train(sigmas, rgbs, ts, packed_info)
    expected = reference.composite_rays_train(sigmas.double(), rgbs.double(), ts.double(), packed_info)
    for a, b in zip(got, expected, strict=True):
        # A sample just at the threshold may count on one side only: at most min_transmittance of difference.
        assert_close(a, b.float(), atol=1e-4 if rays > 31 else 2e-6, rtol=1e-5)
        assert (a - b).abs().gt(2e-6 * (1 + b.abs())).sum() <= 1


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("rays", SIZES)
@pytest.mark.parametrize("output", [*range(4), None])
def test_compositing_gradient_matches_reference(device, rays, channels, output):
    inputs = random_rays(rays, device, channels)
    grads = []
    for function, dtype in (
        (raymarching.composite_rays_train, torch.float32),
        (reference.composite_rays_train, torch.double),
    ):
        leaves = [x.detach().to(dtype).requires_grad_() for x in inputs[:2]]
        outputs = function(*leaves, inputs[2].to(dtype), inputs[3], 0.0)
        chosen = outputs if output is None else outputs[output : output + 1]
        v = [cases.cotangent(x, seed=i) for i, x in enumerate(chosen)]
        grads.append(torch.autograd.grad(chosen, leaves, v, materialize_grads=True))
    for a, b in zip(*grads, strict=True):
        assert_close(a, b.float(), atol=2e-6, rtol=1e-4)  # sums of up to 40 float32 products that cancel


def test_the_entropy_of_weights_has_the_gradient_of_finite_differences(device):
    sigmas, rgbs, ts, packed_info = cases.packed_samples(3, longest=12, device=device)

    def entropy(sigmas, function, dtype):
        weights, *_ = function(sigmas, rgbs.to(dtype), ts.to(dtype), packed_info, 0.0)
        weights = weights.clamp(1e-5, 1 - 1e-5)
        return -(weights * weights.log2()).sum()

    x = sigmas.clone().requires_grad_()
    (got,) = torch.autograd.grad(entropy(x, raymarching.composite_rays_train, torch.float32), x)
    eps, double = 1e-6, sigmas.double()
    for j in range(len(sigmas)):
        step = torch.zeros_like(double)
        step[j] = eps
        up, down = (entropy(double + s, reference.composite_rays_train, torch.double) for s in (step, -step))
        assert_close(got[j].item(), ((up - down) / (2 * eps)).item(), atol=1e-5, rtol=1e-3)  # clamp corners, float32


def test_samples_behind_an_opaque_one_have_no_weight_and_no_gradient(device):
    sigmas = torch.tensor([1.0, 2.0, 20.0, 5.0, 0.0, 7.0], device=device, requires_grad=True)
    rgbs = cases.points(6, device=device).requires_grad_()
    ts, packed_info = one_ray(sigmas, 0.1, device)
    outputs = raymarching.composite_rays_train(sigmas, rgbs, ts, packed_info, 0.2)  # T = 0.1 behind the third
    grads = torch.autograd.grad(outputs, (sigmas, rgbs), [cases.cotangent(x) for x in outputs])
    assert (outputs[0][:3] > 0).all() and not outputs[0][3:].any()
    for grad in grads:
        assert grad[:2].abs().min() > 0 and not grad[3:].any()


def test_an_empty_sample_in_front_still_learns_from_what_is_behind_it(device):
    sigmas = torch.tensor([0.0, 3.0], device=device, requires_grad=True)
    ts, packed_info = one_ray(sigmas, 0.1, device)
    rgbs = torch.tensor([[0.0], [1.0]], device=device)
    *_, rgb = raymarching.composite_rays_train(sigmas, rgbs, ts, packed_info)
    (grad,) = torch.autograd.grad(rgb.sum(), sigmas)
    behind = 1 - math.exp(-0.3)
    assert_close(grad.cpu(), torch.tensor([-0.1 * behind, 0.1 * math.exp(-0.3)]), atol=1e-6, rtol=1e-5)


def test_samples_no_ray_owns_have_no_weight_and_no_gradient(device):
    sigmas, rgbs, ts, _ = random_rays(9, device)
    packed_info = torch.tensor([[2, 3], [9, 1]], dtype=torch.int32, device=device)
    for function in (raymarching.composite_rays_train, reference.composite_rays_train):
        weights, *rest = function(sigmas, rgbs, ts, packed_info)
        grad = torch.autograd.grad(weights.sum() + rest[2].sum(), sigmas)[0]
        owned = torch.zeros_like(sigmas, dtype=torch.bool)
        owned[2:5] = owned[9] = True
        assert not weights[~owned].any() and not grad[~owned].any() and grad[owned].any()


@pytest.mark.parametrize("n_step", [1, 4])
def test_compositing_in_pieces_gives_the_picture_of_the_whole(device, n_step):
    N = 31
    origins, directions = cases.rays_towards_origin(N, device=device)
    box = torch.tensor([-1.0, -1.0, -1.0, 1.0, 1.0, 1.0], device=device)
    nears, fars = raymarching.near_far_from_aabb(origins, directions, box, 0.1)
    bits = cases.sphere_bitfield(32, device=device)
    scene = origins, directions, 1.0, bits, 1, 32, nears, fars

    def field(x):
        return 60 * (x[:, 0] + 0.6).clamp_min(0), (x + 1) / 2  # empty, thin and opaque parts

    xyzs, _, ts, packed_info = raymarching.march_rays_train(*scene, max_steps=200)
    whole = raymarching.composite_rays_train(*field(xyzs), ts, packed_info)[1:]
    assert whole[0].min() < 0.5 and whole[0].max() > 0.999
    for march, composite in (
        (raymarching.march_rays, raymarching.composite_rays),
        (reference.march_rays, reference.composite_rays),
    ):
        alive, rays_t = torch.arange(N, dtype=torch.int32, device=device), nears.clone()
        pictures = [torch.zeros(N, *shape, device=device) for shape in ((), (), (3,))]
        rounds = 0
        while len(alive) and rounds < 300:
            xyzs, _, ts = march(len(alive), n_step, alive, rays_t, *scene, max_steps=200)
            composite(len(alive), n_step, alive, rays_t, *field(xyzs), ts, *pictures)
            alive, rounds = alive[alive >= 0], rounds + 1
        assert rounds > 3
        for got, expected in zip(pictures, whole, strict=True):
            assert_close(got, expected, atol=1e-4, rtol=1e-4)  # 1 - opacity is coarser than the product of e^-tau


def test_one_piece_matches_reference_and_skips_empty_slots(device):
    generator = torch.Generator().manual_seed(0)
    alive = torch.tensor([4, -1, 0, 2], dtype=torch.int32, device=device)
    sigmas, rgbs = (10 * cases.points(12, 1, device=device)[:, 0], cases.points(12, device=device))
    ts = torch.stack([torch.linspace(1, 2, 12), torch.full((12,), 0.05)], 1).to(device)
    ts[7:9] = 0  # the ray of slot 2 has found one sample only
    sigmas[10] = 1e5  # the ray of slot 3 becomes opaque
    start = [torch.rand(5, *shape, generator=generator).to(device) * 0.5 for shape in ((), (), (), (3,))]
    results = []
    for composite in (raymarching.composite_rays, reference.composite_rays):
        state = [alive.clone(), *(x.clone() for x in start)]
        composite(4, 3, state[0], state[1], sigmas, rgbs, ts, *state[2:])
        results.append(state)
    for a, b in zip(*results, strict=True):
        assert_close(a, b, atol=1e-6, rtol=1e-5)
    assert results[0][0].tolist() == [4, -1, -1, -1]
    assert_close(results[0][1][4], ts[2, 0] + 0.025)


def test_half_precision_is_composited_in_float32(device):
    sigmas, rgbs, ts, packed_info = random_rays(5, device)
    outputs = raymarching.composite_rays_train(sigmas.half(), rgbs.bfloat16(), ts, packed_info)
    assert all(x.dtype == torch.float32 for x in outputs)
    assert_close(outputs[1], raymarching.composite_rays_train(sigmas, rgbs, ts, packed_info)[1], atol=1e-3, rtol=1e-3)


def test_cpu_gradients_do_not_depend_on_the_number_of_threads():
    sigmas, rgbs, ts, packed_info = random_rays(1000, "cpu")
    before, runs = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            outputs = raymarching.composite_rays_train(sigmas, rgbs, ts, packed_info)
            runs.append(
                [*outputs, *torch.autograd.grad(outputs, (sigmas, rgbs), [cases.cotangent(x) for x in outputs])]
            )
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_wrong_lengths_and_rays_outside_the_samples_are_refused():
    sigmas, rgbs, ts, packed_info = random_rays(5, "cpu")
    with pytest.raises(ValueError, match="rgbs must have shape"):
        raymarching.composite_rays_train(sigmas, rgbs[1:], ts, packed_info)
    with pytest.raises(ValueError, match="packed_info must be int32"):
        raymarching.composite_rays_train(sigmas, rgbs, ts, packed_info.float())
    with pytest.raises(ValueError, match="raymarching needs all tensors on one device, got cpu and meta"):
        raymarching.composite_rays_train(sigmas, rgbs, ts, packed_info.to("meta"))
    if extension.load("raymarching"):
        with pytest.raises(RuntimeError, match="packed_info: ray"):
            raymarching.composite_rays_train(sigmas, rgbs, ts, packed_info + 1)


def test_a_second_derivative_is_refused(device):
    if not extension.load("raymarching"):
        pytest.skip("the reference has it")
    sigmas, rgbs, ts, packed_info = random_rays(5, device)
    opacity = raymarching.composite_rays_train(sigmas.requires_grad_(), rgbs, ts, packed_info)[1]
    (gradient,) = torch.autograd.grad(opacity.square().sum(), sigmas, create_graph=True)
    with pytest.raises(RuntimeError, match="composite_rays_train has one derivative, a second was asked for"):
        gradient.square().sum().backward()


def test_compositing_operators_follow_the_rules_of_torch(device):
    if not extension.load("raymarching"):
        pytest.skip("no compiler: the references serve")
    ops = torch.ops.raymarching
    sigmas, rgbs, ts, packed_info = random_rays(5, device)
    torch.library.opcheck(ops.composite_rays_train.default, (sigmas, rgbs, ts, packed_info, 1e-4))
    with torch.no_grad():
        weights, opacity, depth, rgb, behind = ops.composite_rays_train(sigmas, rgbs, ts, packed_info, 1e-4)
        gradients = [cases.cotangent(weights), None, cases.cotangent(depth), cases.cotangent(rgb)]
        saved = rgbs.detach(), ts, packed_info, weights, behind
        torch.library.opcheck(ops.composite_rays_train_backward.default, (*gradients, *saved))
        alive = torch.tensor([0, 1], dtype=torch.int32, device=device)
        pictures = [torch.zeros(5, *shape, device=device) for shape in ((), (), (), (3,))]
        samples = sigmas.detach()[:6], rgbs.detach()[:6], ts[:6]
        torch.library.opcheck(ops.composite_rays.default, (alive, pictures[0], *samples, *pictures[1:], 3, 1e-4))
