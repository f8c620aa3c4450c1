"""The distillation rules: each gradient against its formula, written out for a model that is a linear function."""

from __future__ import annotations

from dataclasses import dataclass, fields

import pytest
import torch
from torch.testing import assert_close

from guidance import distill, rules
from guidance.rules import RULES, Prediction
from nerf.config import GuidanceConfig

T = 1000
ALPHAS = torch.linspace(0.9995, 0.003, T, dtype=torch.float64)
TIMESTEPS = torch.tensor([60, 500, 970])


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@dataclass
class Linear:
    """Sees noise that is a share of what it is shown, plus what the prompt adds; notes what it was asked."""

    scale: float = 4.0
    has_negative: bool = True
    alphas_cumprod = ALPHAS

    def __post_init__(self):
        self.asked = []
        self.prompt, self.negative = normal(3, 2, 2, 2, seed=5), normal(3, 2, 2, 2, seed=6)

    def base(self, noisy, timesteps):
        self.asked.append(timesteps.tolist())
        return noisy * (0.2 + timesteps.view(-1, 1, 1, 1) / (2 * T))

    def guided(self, noisy, timesteps):
        base = self.base(noisy, timesteps)
        positive, uncond = base + self.prompt, base + self.negative * self.has_negative
        return Prediction(uncond + self.scale * (positive - uncond), positive, uncond)

    def empty(self, noisy, timesteps):
        return self.base(noisy, timesteps)


def given():
    return normal(3, 2, 2, 2, seed=1), TIMESTEPS, normal(3, 2, 2, 2, seed=2)


def per_element(values):
    return values.view(-1, 1, 1, 1)


def test_the_command_line_offers_every_rule_and_no_other():
    (option,) = (option for option in fields(GuidanceConfig) if option.name == "distill")
    assert option.metadata["choices"] == tuple(RULES)


def test_sds_is_the_weighted_difference_from_the_noise():
    model, (latents, t, noise) = Linear(), given()
    a = per_element(ALPHAS[t])
    noisy = a.sqrt() * latents + (1 - a).sqrt() * noise
    found = rules.sds(model, latents, t, noise)
    guided = noisy * (0.2 + per_element(t) / (2 * T)) + model.negative + 4 * (model.prompt - model.negative)
    assert_close(found.gradient, (1 - a) * (guided - noise))
    assert_close(found.noisy, noisy)
    assert_close(found.noise_pred, guided)


def test_csd_is_what_the_prompt_changes_whatever_the_noise():
    model, (latents, t, noise) = Linear(), given()
    expected = (1 - per_element(ALPHAS[t])) * 4 * (model.prompt - model.negative)
    assert_close(rules.csd(model, latents, t, noise).gradient, expected)
    assert_close(rules.csd(model, latents, t, 3 * noise).gradient, expected)


@pytest.mark.parametrize("has_negative", [True, False])
def test_nfsd_adds_the_residual_at_low_noise_and_the_way_from_the_negative_above(has_negative):
    model, (latents, t, noise) = Linear(has_negative=has_negative), given()
    a = per_element(ALPHAS[t])
    empty = (a.sqrt() * latents + (1 - a).sqrt() * noise) * (0.2 + per_element(t) / (2 * T))
    domain = torch.cat([empty[:1], -has_negative * model.negative[1:]])  # t = 60 alone is below 200
    assert_close(rules.nfsd(model, latents, t, noise).gradient, (1 - a) * (domain + 4 * model.prompt))
    assert len(model.asked) == 1 + has_negative  # no second pass for what is known


def test_ddim_inverted_and_back_is_the_identity_for_a_constant_prediction():
    latents, noise = normal(3, 2, 2, 2, seed=1), normal(3, 2, 2, 2, seed=2)
    noisy = rules.inverted(ALPHAS, lambda x, t: noise, latents, TIMESTEPS, 7)
    assert_close(noisy, distill.add_noise(latents, noise, ALPHAS[TIMESTEPS]))
    back = distill.ddim_step(noisy, noise, ALPHAS[TIMESTEPS], torch.ones(3, dtype=torch.float64))
    assert_close(back, latents)


def test_inversion_asks_at_even_steps_from_the_lowest_noise():
    model = Linear()
    rules.inverted(ALPHAS, model.empty, given()[0], TIMESTEPS, 4)
    assert model.asked == [[0, 0, 0], [15, 125, 242], [30, 250, 485], [45, 375, 727]]


def test_sdi_compares_with_the_noise_of_its_inversion():
    model, (latents, t, noise) = Linear(), given()
    found = rules.sdi(model, latents, t, noise)
    assert len(model.asked) == rules.SDI_STEPS + 1 and model.asked[-1] == t.tolist()
    a = per_element(ALPHAS[t])
    inverted = (found.noisy - a.sqrt() * latents) / (1 - a).sqrt()
    assert_close(found.gradient, (1 - a) * (found.noise_pred - inverted))
    assert_close(found.gradient, rules.sdi(model, latents, t, 5 * noise).gradient)

    def turned(noisy, timesteps):  # uncond - 7.5 (positive - uncond)
        seen = model.guided(noisy, timesteps)
        return 8.5 * seen.uncond - 7.5 * seen.positive

    assert_close(found.noisy, rules.inverted(ALPHAS, turned, latents, t, rules.SDI_STEPS))


def test_ism_compares_two_places_of_the_unprompted_path():
    model, (latents, t, noise) = Linear(), given()
    found = rules.ism(model, latents, t, noise)
    s = t - 50
    assert model.asked[-2:] == [s.tolist(), t.tolist()]
    at_s = rules.inverted(ALPHAS, model.empty, latents, s, 5)
    unprompted = model.empty(at_s, s)
    original = (at_s - (1 - per_element(ALPHAS[s])).sqrt() * unprompted) / per_element(ALPHAS[s]).sqrt()
    noisy = distill.add_noise(original, unprompted, ALPHAS[t])
    assert_close(found.noisy, noisy)
    guided = model.guided(noisy, t).guided
    assert_close(found.gradient, (1 - per_element(ALPHAS[t])) * (guided - unprompted))


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_ddim_down_to_the_picture_and_up_again_is_the_identity_for_a_constant_prediction(steps):
    latents, noise = normal(3, 2, 2, 2, seed=1), normal(3, 2, 2, 2, seed=2)
    noisy = distill.add_noise(latents, noise, ALPHAS[TIMESTEPS])
    assert_close(rules.denoised(ALPHAS, lambda x, t: noise, noisy, TIMESTEPS, steps), latents)


def test_hifa_is_led_to_the_picture_that_several_steps_arrive_at():
    model, (latents, t, noise) = Linear(), given()
    found = rules.hifa(model, latents, t, noise)
    assert model.asked == [[60, 500, 970], [45, 375, 727], [30, 250, 485], [15, 125, 242]]
    a = ALPHAS[t]
    picture = distill.predicted_original(found.noise_pred, found.noisy, per_element(a))
    target = rules.denoised(ALPHAS, lambda x, t: model.guided(x, t).guided, found.noisy, t, rules.HIFA_STEPS)
    assert_close(picture, target)
    # The same direction as the way to that picture: eps - noise = sqrt(a / (1 - a)) (latents - target).
    assert_close(found.gradient, per_element(((1 - a) * a).sqrt()) * (latents - target))


def test_hifa_in_one_step_is_sds(monkeypatch):
    monkeypatch.setattr(rules, "HIFA_STEPS", 1)
    model, (latents, t, noise) = Linear(), given()
    assert_close(rules.hifa(model, latents, t, noise).gradient, rules.sds(model, latents, t, noise).gradient)


def test_rescaled_has_the_spread_of_the_prompted_prediction():
    guided, positive = 5 * normal(3, 4, 8, 8), normal(3, 4, 8, 8, seed=1)
    whole, half = (distill.rescaled(guided, positive, share) for share in (1.0, 0.5))
    assert_close(whole.std((1, 2, 3)), positive.std((1, 2, 3)))
    assert_close(half, (whole + guided) / 2)
    assert distill.rescaled(guided, positive, 0.0) is guided
    assert distill.rescaled(torch.zeros(1, 2, 2, 2), positive[:1, :2, :2, :2].float(), 1.0).isfinite().all()
