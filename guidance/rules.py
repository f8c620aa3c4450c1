"""How a diffusion model's predictions become a gradient: one function a rule.

Each takes a `Denoiser` (the model with the prompts of a batch), the clean latents [B, ...], the timesteps [B] and a
draw of noise [B, ...], all without gradient, and gives a `Distilled`. Every gradient has DreamFusion's weight
w(t) = 1 - alpha_bar. The formulas are in guidance/distill.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from guidance import distill

NFSD_NOISE_ONLY = 0.2  # below this share of the schedule the unprompted prediction is all noise residual
SDI_STEPS, SDI_SCALE = 10, -7.5  # of the inversion: steps, guidance scale
ISM_INTERVAL, ISM_STRIDE = 0.05, 0.2  # shares of the schedule: from s to t, and the steps to s
HIFA_STEPS = 4  # from t down to a clean picture


@dataclass(frozen=True)
class Prediction:
    """The noise that a model sees, [B, ...] each."""

    guided: Tensor  # what the guidance rule makes of the others
    positive: Tensor  # with the prompt
    uncond: Tensor  # with the negative prompt ("" without one)


class Denoiser(Protocol):
    """A model and what it is told about the views of a batch."""

    alphas_cumprod: Tensor  # [T]
    scale: float  # of classifier-free guidance
    has_negative: bool  # whether `uncond` is told more than an empty sentence

    def guided(self, noisy: Tensor, timesteps: Tensor) -> Prediction: ...

    def empty(self, noisy: Tensor, timesteps: Tensor) -> Tensor:
        """The noise that is seen with an empty prompt."""
        ...


@dataclass(frozen=True)
class Distilled:
    gradient: Tensor
    noisy: Tensor  # what was shown to the model
    noise_pred: Tensor  # what it was said to be


def sds(model: Denoiser, latents: Tensor, timesteps: Tensor, noise: Tensor) -> Distilled:
    """Score distillation sampling (DreamFusion, arXiv:2209.14988)."""
    alphas = model.alphas_cumprod[timesteps]
    noisy = distill.add_noise(latents, noise, alphas)
    guided = model.guided(noisy, timesteps).guided
    return Distilled(distill.sds_gradient(guided, noise, alphas), noisy, guided)


def csd(model: Denoiser, latents: Tensor, timesteps: Tensor, noise: Tensor) -> Distilled:
    """Classifier score distillation (arXiv:2310.19415): the difference that the prompt makes, alone."""
    alphas = model.alphas_cumprod[timesteps]
    noisy = distill.add_noise(latents, noise, alphas)
    seen = model.guided(noisy, timesteps)
    return Distilled(distill.csd_gradient(seen.guided, seen.uncond, alphas), noisy, seen.guided)


def nfsd(model: Denoiser, latents: Tensor, timesteps: Tensor, noise: Tensor) -> Distilled:
    """Noise-free score distillation (arXiv:2310.17590): at high noise the difference from the negative prompt."""
    alphas = model.alphas_cumprod[timesteps]
    noisy = distill.add_noise(latents, noise, alphas)
    seen = model.guided(noisy, timesteps)
    empty = model.empty(noisy, timesteps) if model.has_negative else seen.uncond
    low = timesteps < NFSD_NOISE_ONLY * len(model.alphas_cumprod)
    gradient = distill.nfsd_gradient(seen.positive, empty, seen.uncond, low, alphas, model.scale)
    return Distilled(gradient, noisy, seen.guided)


def sdi(model: Denoiser, latents: Tensor, timesteps: Tensor, noise: Tensor) -> Distilled:
    """Score distillation via inversion (arXiv:2405.15891): SDS with the noise that DDIM leads the picture itself to.

    `noise` is not used: the path to `timesteps` is followed with the guidance turned around.
    """

    def turned(noisy: Tensor, at: Tensor) -> Tensor:
        seen = model.guided(noisy, at)
        return distill.classifier_free_guidance(seen.uncond, seen.positive, SDI_SCALE)

    alphas = model.alphas_cumprod[timesteps]
    noisy = inverted(model.alphas_cumprod, turned, latents, timesteps, SDI_STEPS)
    found = distill.predicted_noise(latents, noisy, alphas, "sample")
    guided = model.guided(noisy, timesteps).guided
    return Distilled(distill.sds_gradient(guided, found, alphas), noisy, guided)


def ism(model: Denoiser, latents: Tensor, timesteps: Tensor, noise: Tensor) -> Distilled:
    """Interval score matching (LucidDreamer, arXiv:2311.11284): what the prompt changes between s and t on DDIM's path.

    `noise` is not used: the way to s and from there to t is DDIM's without a prompt.
    """
    count = len(model.alphas_cumprod)
    earlier = (timesteps - round(ISM_INTERVAL * count)).clamp(min=0)
    alphas, before = model.alphas_cumprod[timesteps], model.alphas_cumprod[earlier]
    at_s = inverted(model.alphas_cumprod, model.empty, latents, earlier, round(1 / ISM_STRIDE))
    unprompted = model.empty(at_s, earlier)
    noisy = distill.ddim_step(at_s, unprompted, before, alphas)
    guided = model.guided(noisy, timesteps).guided
    return Distilled(distill.sds_gradient(guided, unprompted, alphas), noisy, guided)


def hifa(model: Denoiser, latents: Tensor, timesteps: Tensor, noise: Tensor) -> Distilled:
    """SDS towards the picture that DDIM arrives at in several steps instead of one (HiFA, arXiv:2305.18766)."""
    alphas = model.alphas_cumprod[timesteps]
    noisy = distill.add_noise(latents, noise, alphas)
    target = denoised(model.alphas_cumprod, lambda x, t: model.guided(x, t).guided, noisy, timesteps, HIFA_STEPS)
    found = distill.predicted_noise(target, noisy, alphas, "sample")
    return Distilled(distill.sds_gradient(found, noise, alphas), noisy, found)


Predict = Callable[[Tensor, Tensor], Tensor]  # noisy latents, timesteps -> the noise that is seen


def denoised(alphas_cumprod: Tensor, predict: Predict, noisy: Tensor, timesteps: Tensor, steps: int) -> Tensor:
    """The clean latents after DDIM from `timesteps` down in so many even steps (arXiv:2010.02502, section 4.1)."""
    return _along(alphas_cumprod, predict, noisy, timesteps, steps, range(steps, -1, -1))


def inverted(alphas_cumprod: Tensor, predict: Predict, latents: Tensor, timesteps: Tensor, steps: int) -> Tensor:
    """The latents after DDIM from no noise to `timesteps` in so many even steps (arXiv:2010.02502, section 4.3)."""
    return _along(alphas_cumprod, predict, latents, timesteps, steps, range(steps + 1))


def _along(
    alphas_cumprod: Tensor, predict: Predict, latents: Tensor, timesteps: Tensor, steps: int, order: range
) -> Tensor:
    """DDIM over the even places of [0, timesteps], from the first of `order` to its last."""
    places = [timesteps * place // steps for place in order]
    # Place 0 is a clean picture, which the model takes for its lowest noise.
    alphas = [
        alphas_cumprod[at] if place else torch.ones_like(alphas_cumprod[at])
        for place, at in zip(order, places, strict=True)
    ]
    for i in range(steps):
        latents = distill.ddim_step(latents, predict(latents, places[i]), alphas[i], alphas[i + 1])
    return latents


RULES = {"sds": sds, "csd": csd, "nfsd": nfsd, "sdi": sdi, "ism": ism, "hifa": hifa}
