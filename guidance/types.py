"""What flows in and out of a guidance: frozen dataclasses, channels-first."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class GuidanceBatch:
    """What a step shows to a guidance: pictures (or latents) and where they were taken from.

    Raises:
        ValueError: images and latents are both given or both missing, or `t_range` is not 0 <= lo <= hi <= 1.
    """

    azimuth: Tensor  # [B] degrees, 0 is the front, 90 is the object's left
    elevation: Tensor  # [B] degrees, 0 is the horizon, 90 is straight above
    generator: torch.Generator  # every random number of the step comes from here, on the generator's device
    images: Tensor | None = None  # [B, 3, H, W] in [0, 1], any size
    latents: Tensor | None = None  # [B, C, H, W] already in model space, any size; then images is None
    step: int = 0
    t_range: tuple[float, float] = (0.02, 0.98)  # lowest and highest timestep, as shares of the T training timesteps
    dreamtime: float | None = None  # share of the run that is over: all views at DreamTime's timestep within t_range
    guidance_scale: float = 100.0  # of classifier-free guidance; 1: none
    want_pictures: bool = False

    def __post_init__(self):
        if (self.images is None) == (self.latents is None):
            raise ValueError("a GuidanceBatch needs images or latents, and not both")
        lo, hi = self.t_range
        if not 0 <= lo <= hi <= 1:
            raise ValueError(f"t_range needs 0 <= min <= max <= 1, got {lo} {hi}")


@dataclass(frozen=True)
class GuidanceOutput:
    """A loss to add to the others, and what there is to look at."""

    loss: Tensor  # scalar; its gradient with respect to images or latents is the distillation gradient
    lost: Tensor  # [B] bool, the views whose gradient is not finite: they change nothing. Known after the backward pass
    metrics: dict[str, float | Tensor] = field(default_factory=dict)  # for the log: numbers or 0-d tensors
    pictures: Tensor | None = None  # [R * B, 3, H, W] in [0, 1], R kinds of picture of B views; only when asked for


@dataclass(frozen=True)
class Conditioning:
    """What a diffusion model is told about each view."""

    positive: Tensor  # [B, L, D] embedding of the prompt as seen from the view
    uncond: Tensor  # [B, L, D] embedding of the negative prompt ("" without one)
    negatives: Tensor | None = None  # [B, K, L, D] embeddings Perp-Neg steers away from
    weights: Tensor | None = None  # [B, K] their weights, <= 0
