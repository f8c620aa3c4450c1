"""The rules of score distillation as pure functions.

alpha_bar is the cumulative product of the noise schedule (`alphas_cumprod`): noisy = sqrt(alpha_bar) original +
sqrt(1 - alpha_bar) noise (DDPM, arXiv:2006.11239, eq. 4). Wherever a function takes `alphas_cumprod_t`, it has one
value per batch element, [B], and the pictures are [B, ...].
"""

from __future__ import annotations

import torch
from torch import Tensor

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")
TINY = 1e-8  # under every division: schedules with zero terminal SNR reach alpha_bar = 0


def add_noise(original: Tensor, noise: Tensor, alphas_cumprod_t: Tensor) -> Tensor:
    """The picture `original` after noising to alpha_bar (DDPM, arXiv:2006.11239, eq. 4). [B, ...]"""
    a = _per_element(alphas_cumprod_t, original)
    return a.sqrt() * original + (1 - a).sqrt() * noise


def predicted_noise(output: Tensor, noisy: Tensor, alphas_cumprod_t: Tensor, prediction_type: str) -> Tensor:
    """The noise a model sees in `noisy`, from its raw `output`.

    Conversions between epsilon, v and x0: progressive distillation (arXiv:2202.00512, section 4 and appendix D).

    Raises:
        ValueError: `prediction_type` is not one of PREDICTION_TYPES.
    """
    a = _per_element(alphas_cumprod_t, noisy)
    if prediction_type == "epsilon":
        return output
    if prediction_type == "v_prediction":
        return a.sqrt() * output + (1 - a).sqrt() * noisy
    if prediction_type == "sample":
        return (noisy - a.sqrt() * output) / (1 - a).clamp(min=TINY).sqrt()
    raise ValueError(f"prediction_type needs one of {', '.join(PREDICTION_TYPES)}, got {prediction_type!r}")


def predicted_original(noise_pred: Tensor, noisy: Tensor, alphas_cumprod_t: Tensor) -> Tensor:
    """The clean picture that `noisy` would be if `noise_pred` were its noise (DDIM, arXiv:2010.02502, eq. 9)."""
    a = _per_element(alphas_cumprod_t, noisy)
    return (noisy - (1 - a).sqrt() * noise_pred) / a.clamp(min=TINY).sqrt()


def ddim_step(noisy: Tensor, noise_pred: Tensor, alphas_from: Tensor, alphas_to: Tensor) -> Tensor:
    """`noisy` at another noise level, more or less, if `noise_pred` is its noise (DDIM, arXiv:2010.02502, eq. 12)."""
    return add_noise(predicted_original(noise_pred, noisy, alphas_from), noise_pred, alphas_to)


def classifier_free_guidance(uncond: Tensor, cond: Tensor, scale: float) -> Tensor:
    """uncond + scale (cond - uncond) (arXiv:2207.12598, with scale = 1 + w): 1 is no guidance. [B, ...]"""
    return uncond + scale * (cond - uncond)


def rescaled(guided: Tensor, positive: Tensor, share: float) -> Tensor:
    """`guided` drawn to the spread of `positive`: strong guidance overexposes (arXiv:2305.08891, eq. 15 and 16).

    Args:
        share: 0: `guided` as it is; 1: with the standard deviation of `positive`, per batch element.
    """
    if share == 0:
        return guided
    dims = tuple(range(1, guided.dim()))
    spread = positive.std(dims, keepdim=True) / guided.std(dims, keepdim=True).clamp(min=TINY)
    return guided * (share * spread + 1 - share)


def perpendicular(v: Tensor, onto: Tensor) -> Tensor:
    """The part of v orthogonal to onto, per batch element; v itself where onto is 0. [B, ...]"""
    dims = tuple(range(1, v.dim()))
    # Clamp before dividing: equal predictions give 0/0 here and NaN the image.
    share = (v * onto).sum(dims, keepdim=True) / (onto * onto).sum(dims, keepdim=True).clamp(min=TINY)
    return v - share * onto


def perp_neg(uncond: Tensor, positive: Tensor, negatives: Tensor, weights: Tensor, scale: float) -> Tensor:
    """Guidance away from negatives, but never against the positive (Perp-Neg, arXiv:2304.04968, eq. 6).

    Args:
        uncond: Predictions without the prompt. [B, ...]
        positive: Predictions with the prompt. [B, ...]
        negatives: Predictions with each negative. [B, K, ...]
        weights: Weight of each negative, <= 0 steers away. [B, K]
        scale: Guidance scale of the sum; with zero weights this is `classifier_free_guidance`.

    Returns:
        uncond + scale (d + sum_k weights_k perpendicular(negative_k - uncond, d)) with d = positive - uncond. [B, ...]
    """
    delta = positive - uncond
    direction = delta
    for negative, weight in zip(negatives.unbind(1), weights.unbind(1), strict=True):
        direction = direction + _per_element(weight, delta) * perpendicular(negative - uncond, delta)
    return uncond + scale * direction


def sds_gradient(noise_pred: Tensor, noise: Tensor, alphas_cumprod_t: Tensor) -> Tensor:
    """Score distillation w(t) (noise_pred - noise), w(t) = 1 - alpha_bar (arXiv:2209.14988, eq. 3). [B, ...]"""
    return _weighted(noise_pred - noise, alphas_cumprod_t)


def csd_gradient(guided: Tensor, uncond: Tensor, alphas_cumprod_t: Tensor) -> Tensor:
    """Classifier score w(t) (guided - uncond) = w(t) scale (positive - uncond) (CSD, arXiv:2310.19415). [B, ...]"""
    return _weighted(guided - uncond, alphas_cumprod_t)


def nfsd_gradient(
    positive: Tensor, empty: Tensor, negative: Tensor, low: Tensor, alphas_cumprod_t: Tensor, scale: float
) -> Tensor:
    """Noise-free score w(t) (domain + scale (positive - empty)) (NFSD, arXiv:2310.17590). [B, ...]

    The domain is `empty` where the noise is `low` [B], bool, and empty - negative elsewhere.
    """
    domain = torch.where(_per_element(low, empty).bool(), empty, empty - negative)
    return _weighted(domain + scale * (positive - empty), alphas_cumprod_t)


def distillation_loss(latents: Tensor, gradient: Tensor) -> Tensor:
    """A scalar whose gradient with respect to `latents` is `gradient` / B: summed over elements, averaged over views.

    Its value is |gradient|^2 / (2 B), the squared distance to the target `latents - gradient`.

    Args:
        latents: What the gradient is for. Differentiable. [B, ...]
        gradient: Treated as a constant. [B, ...]
    """
    gradient = gradient.detach()
    surrogate = (latents * gradient).sum() / len(latents)
    return surrogate - surrogate.detach() + 0.5 * gradient.square().sum() / len(latents)


def pixel_loss(images: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """sum weights |images - target|^2 / (2 B): the distance to the target as a picture (HiFA, arXiv:2305.18766).

    Args:
        images: Differentiable. [B, 3, H, W]
        target: Treated as a constant. [B, 3, H, W]
        weights: [B]
    """
    difference = _per_element(weights, images) * (images - target.detach()).square()
    return 0.5 * difference.sum() / len(images)


def target_of(latents: Tensor, gradient: Tensor, alphas_cumprod_t: Tensor) -> tuple[Tensor, Tensor]:
    """Where a gradient leads, and its weight: gradient = weight (latents - target). [B, ...], [B]

    The weight is sqrt(alpha_bar (1 - alpha_bar)), so that the target of `sds_gradient` is the `predicted_original`.
    """
    weights = (alphas_cumprod_t * (1 - alphas_cumprod_t)).sqrt()
    return latents - gradient / _per_element(weights, latents).clamp(min=TINY), weights


def _weighted(difference: Tensor, alphas_cumprod_t: Tensor) -> Tensor:
    """w(t) = 1 - alpha_bar times the difference."""
    return (1 - _per_element(alphas_cumprod_t, difference)) * difference


def _per_element(values: Tensor, like: Tensor) -> Tensor:
    """values [B] in the shape [B, 1, ...] that multiplies `like` [B, ...], in its dtype and device."""
    return values.to(like).view(-1, *[1] * (like.dim() - 1))
