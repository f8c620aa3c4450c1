"""guidance/memory.py: plans that fit, pictures that take turns, and 8-bit weights."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing import assert_close

import sd_case
from guidance import lean, memory
from guidance.prompts import ViewOptions
from guidance.stable_diffusion import StableDiffusion
from guidance.types import GuidanceBatch
from live_memory import LiveMemory
from nerf import commands
from nerf.config import Config
from sd_case import VAES, batch
from tiny_diffusion import save_pipeline
from tiny_run import SMALL

SD21 = memory.Load(parameters=865_910_724, pixels=512 * 512)
MORE = (1, 4), (2, 2), (2, 4), (4, 2), (4, 4), (16, 2)  # pictures, prompts
LARGER = [replace(SD21, pictures=pictures, prompts=prompts) for pictures, prompts in MORE]


@pytest.mark.parametrize("load", [SD21, *LARGER])
def test_plans_are_in_order_and_the_largest_that_fits_is_chosen(load):
    sizes = [plan.gigabytes(load) for plan in memory.plans(load)]
    assert sizes == sorted(sizes, reverse=True) and len(sizes) == len(set(sizes)) == 5 - (load.pictures == 1)
    for plan, size in zip(memory.plans(load), sizes, strict=True):
        assert memory.choose(size, load) is plan
        assert memory.choose(size - 0.01, load) is not plan or plan is memory.PLANS[-1]
    assert memory.choose(float("inf"), load) is memory.PLANS[0]


def test_stable_diffusion_fits_six_gigabytes_whole_and_four_without_smaller_pictures():
    """Two of them are the field's and CUDA's (LOADED and COMING of nerf.build). Computed, not measured."""
    assert memory.choose(6 - 2, SD21) == memory.PLANS[0]
    assert memory.choose(4 - 2, SD21).scale == 1


def test_four_pictures_a_step_fit_six_gigabytes_where_they_take_turns():
    assert memory.choose(6 - 2, replace(SD21, pictures=4)) is memory.IN_TURN


def test_what_has_no_autoencoder_takes_no_memory_for_one():
    whole = memory.PLANS[0]
    bare, encoded = (whole.gigabytes(memory.Load(10**9, pixels)) for pixels in (0, 1))
    assert bare == pytest.approx((2e9 + memory.OVERHEAD) / 1e9) and encoded > bare + 0.06


@pytest.fixture(scope="module")
def fake():
    """Stable Diffusion 2.1 of the true size in half precision, whose tensors have no contents."""
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.Module, "to", lambda module, *args, **options: module)  # which fake weights cannot follow
        guidance = StableDiffusion("random:sd21", precision="bf16")
        guidance.prepare("a frog")
    return guidance, mode


def test_what_the_unet_makes_at_most_fits_the_overhead_of_the_plans(fake):
    guidance, mode = fake
    with mode, torch.no_grad(), LiveMemory() as live:
        words = guidance.prompts.views[:2]
        guidance.predict_noise(torch.randn(2, 4, 64, 64), torch.ones(2, dtype=torch.long), words)
    assert 0.05e9 < live.peak < memory.OVERHEAD


@pytest.mark.parametrize("load", [SD21, *LARGER], ids=lambda load: f"{load.pictures} x {load.prompts}")
def test_a_plan_has_room_for_every_picture_of_a_step_and_little_more(fake, monkeypatch, load):
    guidance, mode = fake
    monkeypatch.setattr(lean, "_takes_channels_last", lambda x: False)  # as on a GPU
    monkeypatch.setattr(guidance, "views", ViewOptions(perpneg=load.prompts == 4))
    for plan in memory.plans(load)[:2]:
        if plan.int8:
            continue
        monkeypatch.setattr(guidance, "plan", plan)
        with mode, LiveMemory() as live:
            pictures, zero = torch.rand(load.pictures, 3, 64, 64).requires_grad_(), torch.zeros(load.pictures)
            given = GuidanceBatch(images=pictures, azimuth=zero, elevation=zero, generator=torch.Generator())
            torch.autograd.grad(guidance(given).loss, pictures)
        counted = (live.read + live.peak) / 1e9
        assert counted < plan.gigabytes(load) < 1.2 * counted


@pytest.mark.parametrize("perpneg", [False, True])
@pytest.mark.parametrize("space", ["latents", "pixels"])
@pytest.mark.parametrize("vae", VAES)
def test_pictures_that_take_turns_have_the_same_gradient(tmp_path, monkeypatch, vae, space, perpneg):
    guidance = sd_case.load(save_pipeline(tmp_path, vae), space=space, views=ViewOptions(perpneg=perpneg))
    found = []
    for plan in memory.PLANS[:2]:
        monkeypatch.setattr(guidance, "plan", plan)
        given = batch(guidance_scale=5)
        loss = guidance(given).loss
        loss.backward()
        found.append((loss.detach(), given.images.grad))
    for whole, turns in zip(*found, strict=True):
        assert_close(turns, whole, rtol=1e-4, atol=1e-4 * float(whole.abs().max()))  # float32, guided by 5


def test_turns_are_taken_again_for_the_gradient_alone():
    sizes = []

    def square(x, y):
        sizes.append(len(x))
        return x * x * y

    x, y = torch.rand(5, 2, requires_grad=True), torch.rand(5, 2)
    with torch.no_grad():
        assert torch.equal(memory.in_turn(square, x, y, at_once=2), x * x * y)
    assert sizes == [2, 2, 1]
    assert torch.equal(memory.in_turn(square, x[:2], y[:2], at_once=2), (x * x * y)[:2])
    assert sizes == [2, 2, 1, 2]  # nothing to take turns: nothing to compute again
    sizes.clear()
    torch.autograd.grad(memory.in_turn(square, x, y, at_once=2).sum(), x)
    assert sorted(sizes) == [1, 1, 2, 2, 2, 2]


def test_more_pictures_a_step_take_a_smaller_plan(prior):
    pixels = StableDiffusion(prior).image_size[0] ** 2
    parameters = sum(p.numel() for p in StableDiffusion(prior).unet.parameters())
    room = memory.PLANS[0].gigabytes(memory.Load(parameters, pixels))
    assert StableDiffusion(prior, vram=room, batch_size=1).plan is memory.PLANS[0]
    assert StableDiffusion(prior, vram=room, batch_size=2).plan is not memory.PLANS[0]
    assert StableDiffusion(prior, vram=room, views=ViewOptions(perpneg=True)).plan is not memory.PLANS[0]
    assert StableDiffusion(prior, vram=room + 1e-4, batch_size=2).plan is memory.IN_TURN


@pytest.mark.parametrize("layer", [nn.Linear(31, 17), nn.Conv2d(5, 7, 3, padding=1), nn.Conv2d(1, 257, 1, bias=False)])
def test_eight_bit_layers_are_nearly_the_layers_for_half_of_fp16(layer):
    x = torch.randn(2, 31) if isinstance(layer, nn.Linear) else torch.randn(2, layer.in_channels, 6, 5)
    small = memory.to_int8(nn.Sequential(copy.deepcopy(layer)).requires_grad_(False))
    assert (small(x) - layer(x)).norm() < 0.01 * layer(x).norm()
    assert small[0].weight.dtype == torch.int8
    error = small[0].dequantised() - layer.weight
    assert error.abs().max() <= 0.51 * small[0].scale.max()  # half a step


def test_a_weight_of_zeros_stays_zero():
    layer = nn.Linear(3, 2).requires_grad_(False)
    layer.weight.zero_()
    assert torch.equal(memory.to_int8(nn.Sequential(layer))(torch.ones(1, 3)), layer.bias[None])


def test_a_guidance_gives_up_one_thing_after_the_other(prior):
    guidance = StableDiffusion(prior)
    guidance.prepare("a green frog")
    noisy, t = torch.randn(2, 4, 8, 8), torch.tensor([10, 900])
    words = guidance.prompts.views[:2]
    before, sizes = guidance.predict_noise(noisy, t, words), [guidance.image_size]
    assert guidance.economise() == "8-bit UNet"
    after = guidance.predict_noise(noisy, t, words)
    assert 0 < (after - before).norm() < 0.02 * before.norm()
    while guidance.economise():
        sizes.append(guidance.image_size)
        zero = torch.zeros(1)
        pictures = torch.rand(1, 3, 16, 16, requires_grad=True)
        given = GuidanceBatch(images=pictures, azimuth=zero, elevation=zero, generator=torch.Generator())
        guidance(given).loss.backward()
        assert pictures.grad.abs().max() > 0
    assert sizes == [(16, 16), (12, 12), (8, 8)]


def test_the_first_thing_that_several_pictures_give_up_is_to_come_at_once(prior):
    assert StableDiffusion(prior, batch_size=2).economise() == "one picture at a time"


def test_a_guidance_is_made_to_fit_when_it_is_loaded(prior):
    assert StableDiffusion(prior).plan is memory.PLANS[0]
    tight = StableDiffusion(prior, vram=0.0)
    assert tight.plan is memory.PLANS[-1] and tight.image_size == (8, 8)
    assert any(p.dtype == torch.int8 for p in tight.unet.parameters())


def test_the_line_of_a_run_says_what_plan_it_has_where_memory_is_limited(make, prior):
    config = Config().updated(SMALL)
    assert f"guidance toybox ({prior}), " in commands._describe(config, make(), True)
    trainer = make(vram=1.0)
    plan, load = memory.PLANS[-1], trainer.guidance["toybox"].load
    said = f"guidance toybox ({prior}: {plan.name}, {plan.gigabytes(load):.1f} of 0.0 GB, shown 8 x 8), "
    assert said in commands._describe(config, trainer, True)
