"""What each step does: the phases at their borders, the draws against their distributions, plans as pure functions."""

import math

import pytest
import torch
from torch.testing import assert_close

from nerf.cameras import ViewRanges, orbit_views
from nerf.schedule import Schedule
from nerf.seeding import step_generator


def plans(schedule, count=2000):
    return [schedule.plan(step) for step in range(count)]


def share(values):
    values = list(values)
    return sum(values) / len(values)


def near(value, p, n=2000):
    """Within 4 standard errors of a coin with probability p."""
    return abs(value - p) <= 4 * math.sqrt(p * (1 - p) / n)


def test_the_same_step_has_the_same_plan_in_any_order_and_process():
    forwards = plans(Schedule(seed=3, batch_size=2), 50)
    other = Schedule(seed=3, batch_size=2)
    assert [other.plan(step) for step in reversed(range(50))] == forwards[::-1]


def test_another_seed_has_other_plans():
    assert Schedule(seed=1).plan(7) != Schedule(seed=2).plan(7)


def test_the_global_random_state_is_neither_read_nor_moved():
    torch.manual_seed(0)
    before, first = torch.get_rng_state(), Schedule().plan(5)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(1)
    assert Schedule().plan(5) == first


def test_phases_last_as_long_as_their_ratios_say():
    schedule = Schedule(iters=1000, latent_iter_ratio=0.2, albedo_iter_ratio=0.5)
    phases = [plan.phase for plan in plans(schedule, 1000)]
    assert phases == ["latent"] * 200 + ["albedo"] * 300 + ["shaded"] * 500


def test_a_phase_of_ratio_0_never_comes():
    assert {plan.phase for plan in plans(Schedule(iters=100, latent_iter_ratio=0.0), 101)} == {"shaded"}


def test_the_albedo_phase_can_fill_the_run():
    schedule = Schedule(iters=100, latent_iter_ratio=0.0, albedo_iter_ratio=1.0)
    assert {(plan.phase, plan.shading, plan.ambient) for plan in plans(schedule, 100)} == {("albedo", "albedo", 1.0)}


def test_the_latent_phase_shows_normals():
    plan = Schedule(iters=1000).plan(0)
    assert plan.as_latent and plan.shading == "normal" and plan.ambient == 1.0 and plan.background is None
    assert not Schedule(iters=1000).plan(200).as_latent


def test_shaded_steps_draw_ambient_light_and_texture():
    drawn = plans(Schedule(iters=2000, latent_iter_ratio=0, min_ambient_ratio=0.4, textureless_ratio=0.3))
    assert {plan.shading for plan in drawn} == {"textureless", "lambertian"}
    assert near(share(plan.shading == "textureless" for plan in drawn), 0.3)
    ambient = [plan.ambient for plan in drawn]
    assert 0.4 <= min(ambient) < 0.41 and 0.99 < max(ambient) <= 1
    assert share(ambient) == pytest.approx(0.7, abs=4 * 0.6 / math.sqrt(12 * 2000))


def test_texture_and_ambient_light_are_drawn_apart():
    drawn = plans(Schedule(iters=2000, latent_iter_ratio=0, min_ambient_ratio=0, textureless_ratio=0.5))
    ambient = [plan.ambient for plan in drawn if plan.shading == "textureless"]
    assert share(ambient) == pytest.approx(0.5, abs=4 / math.sqrt(12 * len(ambient)))


def test_lights_stand_near_their_cameras():
    drawn = plans(Schedule(iters=2000, latent_iter_ratio=0, batch_size=2))
    noise = torch.tensor([plan.light_noise for plan in drawn]).flatten()
    assert abs(noise.mean()) < 4 / math.sqrt(len(noise)) and abs(noise.std() - 1) < 0.05
    _, cameras = orbit_views(2, radius=3.0)
    light = drawn[0].shading_for(cameras).light
    towards = torch.tensor([[0.0, 0, 3], [0, 0, -3]]) + torch.tensor(drawn[0].light_noise)
    assert_close(light, towards / towards.norm(dim=-1, keepdim=True))


def test_the_network_is_the_background_of_every_second_step():
    drawn = plans(Schedule(iters=2000, latent_iter_ratio=0, batch_size=2))
    assert near(share(plan.background is None for plan in drawn), 0.5)
    assert drawn[0].background_for(orbit_views(2)[1]) is None or drawn[0].background is not None


@pytest.mark.parametrize("kind, greys", [("color", 0.0), ("grey", 1.0), ("grey_or_color", 0.5)])
def test_backgrounds_are_grey_or_coloured_as_asked(kind, greys):
    drawn = plans(Schedule(iters=2000, latent_iter_ratio=0, batch_size=2, background=kind))
    colours = torch.tensor([plan.background for plan in drawn])
    assert colours.shape == (2000, 2, 3) and 0 <= colours.min() and colours.max() < 1
    assert near((colours.amax(-1) == colours.amin(-1)).float().mean().item(), greys)
    assert not torch.equal(colours[:, 0], colours[:, 1])  # each view has its own
    assert_close(drawn[5].background_for(orbit_views(2)[1]), colours[5])


def test_progressive_views_grow_from_the_default_view_to_the_full_ranges():
    full = ViewRanges(radius=(3, 4), polar=(45, 105), azimuth=(-180, 180), fovy=(10, 30))
    schedule = Schedule(iters=1000, views=full, progressive_view=True, progressive_view_init_ratio=0.2)
    start = schedule.plan(0).views
    assert start.azimuth == pytest.approx((-36, 36)) and start.polar == pytest.approx((81, 93))
    assert start.radius == pytest.approx((3.16, 3.36)) and start.fovy == pytest.approx((18, 22))
    assert schedule.plan(100).views.azimuth == pytest.approx((-72, 72))
    assert schedule.plan(400).views.azimuth == pytest.approx((-180, 180))
    assert schedule.plan(1000).views.radius == pytest.approx((3, 4))


def test_views_are_full_from_the_start_without_progressive_view():
    full = ViewRanges(azimuth=(-90, 90))
    assert Schedule(views=full).plan(0).views == full


def test_progressive_level_goes_from_a_quarter_to_all():
    schedule = Schedule(iters=1000, progressive_level=True)
    assert [schedule.plan(step).max_level for step in (0, 125, 375, 1000)] == [0.25, 0.5, 1.0, 1.0]
    assert Schedule(iters=1000).plan(0).max_level == 1.0


def test_a_run_inside_a_longer_experiment_takes_its_place_in_it():
    schedule = Schedule(iters=100, exp_start_iter=50, exp_end_iter=250, latent_iter_ratio=0.1)
    assert [schedule.plan(step).progress for step in (0, 50, 100, 250, 999)] == [0, 0, 0.25, 1, 1]
    assert [schedule.plan(step).phase for step in (0, 69, 70)] == ["latent", "latent", "shaded"]


@pytest.mark.parametrize("ratio, steps", [(0.0, 0), (0.3, 30), (0.7, 70), (1.0, 100)])
def test_the_pictures_of_the_last_steps_are_larger_and_of_the_same_shape(ratio, steps):
    schedule = Schedule(iters=100, h=64, w=48, end_h=128, end_iter_ratio=ratio)
    sizes = [(plan.height, plan.width) for plan in map(schedule.plan, range(100))]
    assert sizes == [(64, 48)] * (100 - steps) + [(128, 96)] * steps


def test_the_resolution_is_constant_without_another_at_the_end():
    assert {(plan.height, plan.width) for plan in map(Schedule(iters=9, h=64, w=48).plan, range(9))} == {(64, 48)}


def test_the_upper_timestep_falls_in_a_line():
    schedule = Schedule(iters=1000, t_range=(0.02, 0.98), t_schedule="anneal", t_anneal=0.5)
    for step, high in [(0, 0.98), (250, 0.86), (500, 0.74), (1000, 0.5), (2000, 0.5)]:
        assert schedule.plan(step).t_range == (0.02, pytest.approx(high))


def test_the_guidance_scale_moves_in_a_line():
    schedule = Schedule(iters=100, guidance_scale=8, guidance_anneal=2)
    for step, scale in [(0, 8), (25, 6.5), (100, 2), (200, 2)]:
        assert schedule.plan(step).guidance_scale == pytest.approx(scale)


def test_learning_rates_fall_by_even_factors():
    schedule = Schedule(iters=100, lr_decay=0.1)
    assert [schedule.plan(step).lr_factor for step in (0, 50, 100, 200)] == pytest.approx([1, 10**-0.5, 0.1, 0.1])


def test_timesteps_and_guidance_stay_without_annealing():
    plan = Schedule(iters=10, t_range=(0.1, 0.6), guidance_scale=7).plan(9)
    assert plan.t_range == (0.1, 0.6) and plan.guidance_scale == 7 and plan.dreamtime is None


def test_dreamtime_is_told_the_share_of_the_run_and_keeps_the_range():
    plan = Schedule(iters=10, t_range=(0.1, 0.6), t_schedule="dreamtime").plan(4)
    assert plan.t_range == (0.1, 0.6) and plan.dreamtime == 0.4


def test_weights_carry_their_ramps():
    weights = {"entropy": 2.0, "orient": 0.5, "guidance": 3.0}
    schedule = Schedule(iters=1000, weights=weights)
    assert schedule.plan(0).weights == {"entropy": 0.0, "orient": 0.5, "guidance": 3.0}
    assert schedule.plan(250).weights["entropy"] == 1.0
    assert schedule.plan(500).weights == weights == schedule.plan(1000).weights


def test_the_renderer_makes_normals_for_the_losses_that_ask_for_them():
    asked = {name: Schedule(weights={name: 1.0}).plan(0) for name in ("orient", "2d_normal_smooth", "3d_normal_smooth")}
    assert {name: (p.need_normals, p.perturb_normals) for name, p in asked.items()} == {
        "orient": (False, False),
        "2d_normal_smooth": (True, False),
        "3d_normal_smooth": (True, True),
    }


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"iters": 0}, "--iters"),
        ({"latent_iter_ratio": 1.5}, "--latent_iter_ratio needs a share in"),
        ({"t_range": (0.9, 0.1)}, "--t_range needs 0 <= min <= max <= 1, got 0.9 0.1"),
        ({"t_range": (0.3, 0.9), "t_anneal": 0.2, "t_schedule": "anneal"}, "--t_anneal"),
        ({"t_schedule": "sometimes"}, "--t_schedule needs one of uniform, anneal, dreamtime, got sometimes"),
        ({"exp_start_iter": 50, "exp_end_iter": 50}, "--exp_end_iter"),
        ({"iters": 100, "exp_start_iter": 100}, "--exp_end_iter"),
        ({"background": "plaid"}, "--background"),
        ({"lr_decay": 0.0}, "--lr_decay"),
        ({"end_h": 0}, "--end_h"),
        ({"end_iter_ratio": 2.0}, "--end_iter_ratio"),
    ],
)
def test_options_that_make_no_sense_are_refused_by_name(wrong, message):
    with pytest.raises(ValueError, match=message):
        Schedule(**wrong)


def test_steps_seeds_and_streams_never_share_their_numbers():
    def first(seed, step, stream=""):
        return torch.randint(2**62, (1,), generator=step_generator(seed, step, stream=stream)).item()

    drawn = {first(seed, step) for seed in (0, 1, 2**32, 2**63 - 1) for step in range(500)}
    drawn |= {first(0, step, "plan") for step in range(500)}
    assert len(drawn) == 2500


def test_neighbouring_steps_are_not_correlated():
    drawn = torch.tensor([torch.rand(1, generator=step_generator(0, step)).item() for step in range(4000)])
    assert abs(torch.corrcoef(torch.stack([drawn[1:], drawn[:-1]]))[0, 1]) < 4 / math.sqrt(4000)
    assert (drawn.sort().values - torch.linspace(0, 1, 4000)).abs().max() < 1.95 / math.sqrt(4000)


def test_a_step_generator_serves_its_device(device):
    a, b = (torch.rand(5, device=device, generator=step_generator(1, 2, device)) for _ in range(2))
    assert torch.equal(a, b)
