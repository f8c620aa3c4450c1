"""View-dependent prompts: which words describe a view, and how their embeddings blend.

DreamFusion (arXiv:2209.14988, section 3.2) appends the view to the prompt; blending the embeddings by azimuth
removes the jump at the border of two views. Perp-Neg (arXiv:2304.04968) also steers away from the other views.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from guidance.transfer import sent
from guidance.types import Conditioning

VIEW_WORDS = ("front view", "side view", "back view", "overhead view")
SIDED_WORDS = ("front view", "left side view", "back view", "overhead view", "right side view")  # the object's own left
OVERHEAD_BLEND = 10.0  # degrees of polar angle on both sides of angle_overhead over which the overhead view fades in


@dataclass(frozen=True)
class ViewOptions:
    """How views are told apart; the names are those of the command line.

    Raises:
        ValueError: `angle_front` is not in (0, 180] or `angle_overhead` not in [0, 90].
    """

    words: bool = True  # say the view in the prompt; without it every view has the same prompt
    sided: bool = False  # SIDED_WORDS in place of VIEW_WORDS: for a model that was taught the difference
    mirrored: bool = False  # show the right side as the left side of the mirror image: for a model that knows no other
    angle_front: float = 60.0  # full width of the front sector (and of the back sector), degrees of azimuth
    angle_overhead: float = 30.0  # polar angle below which a view is an overhead view, degrees; 0: never
    perpneg: bool = False
    negative_w: float = -2.0  # Perp-Neg: largest weight of a negative view
    front_decay_factor: float = 2.0  # Perp-Neg: how fast the front view stops being a negative towards the front
    side_decay_factor: float = 10.0  # Perp-Neg: the same for the side view towards the side

    def __post_init__(self):
        if not 0 < self.angle_front <= 180:
            raise ValueError(f"--angle_front needs 0 < degrees <= 180, got {self.angle_front}")
        if not 0 <= self.angle_overhead <= 90:
            raise ValueError(f"--angle_overhead needs 0 <= degrees <= 90, got {self.angle_overhead}")


def view_prompts(text: str, *, sided: bool = False) -> list[str]:
    """`text` with each of VIEW_WORDS, or of SIDED_WORDS: "a frog, front view", ..."""
    return [f"{text}, {word}" for word in (SIDED_WORDS if sided else VIEW_WORDS)]


def view_weights(
    azimuth: Tensor,
    elevation: Tensor,
    angle_front: float = 60.0,
    angle_overhead: float = 30.0,
    *,
    sided: bool = False,
) -> Tensor:
    """How much each of VIEW_WORDS, or of SIDED_WORDS, describes a view: continuous, non-negative, sums to 1.

    Front is 1 at azimuth 0 and falls linearly to 0.5 at the border of its sector (`angle_front` / 2) and to 0 at
    `angle_front`; back likewise around 180; side is the rest. With `angle_front` 90 this is plain linear
    interpolation between 0, 90 and 180 degrees. Overhead fades in linearly around the polar angle `angle_overhead`.

    Args:
        azimuth: Degrees, any real number. [B]
        elevation: Degrees in [-90, 90]. [B]
        sided: Tell the left side (azimuths of 0 to 180) from the right.

    Returns:
        Weights in the order of VIEW_WORDS, [B, 4], or of SIDED_WORDS, [B, 5].
    """
    from_front = _degrees_from_front(azimuth)
    front = (1 - from_front / angle_front).clamp(min=0)
    back = (1 - (180 - from_front) / angle_front).clamp(min=0)
    band = min(OVERHEAD_BLEND, angle_overhead)
    if band > 0:
        overhead = ((angle_overhead + band - (90 - elevation)) / (2 * band)).clamp(0, 1)
    else:
        overhead = torch.zeros_like(front)
    level, side = 1 - overhead, 1 - front - back
    if not sided:
        return torch.stack([front * level, side * level, back * level, overhead], dim=-1)
    left = on_the_left(azimuth) * side
    return torch.stack([front * level, left * level, back * level, overhead, (side - left) * level], dim=-1)


def view_word(azimuth: float, elevation: float, angle_front: float = 60.0, angle_overhead: float = 30.0) -> str:
    """The one of VIEW_WORDS that describes a view best: where `view_weights` is largest. Angles in degrees."""
    views = torch.tensor([[float(azimuth)], [float(elevation)]])
    return VIEW_WORDS[int(view_weights(views[0], views[1], angle_front, angle_overhead).argmax())]


def perp_neg_weights(weights: Tensor, options: ViewOptions) -> Tensor:
    """Weights of the negatives (front view, side view) for views blended as `weights` says.

    Perp-Neg (arXiv:2304.04968, section 4): let r be the share of the view nearer to the front in the pair that
    describes the view. Between front and side, the front is a negative by exp(-front_decay_factor r) and the side
    by exp(-side_decay_factor (1 - r)), each off close to its own view (r > 0.8, r < 0.2). Between side and back,
    the front is a full negative and the side one by exp(-side_decay_factor r) / 2. All times `negative_w`, and
    fading with the overhead view, from where front and side are equally wrong.

    Args:
        weights: Result of `view_weights`, not sided. [B, 4]

    Returns:
        Weights of front and side. [B, 2]
    """
    front, side, back, overhead = weights.unbind(-1)
    behind = back > front
    r_front = front / (front + side).clamp(min=1e-6)
    r_back = side / (side + back).clamp(min=1e-6)
    zero = torch.zeros_like(front)

    front_ahead = torch.where(r_front > 0.8, zero, torch.exp(-options.front_decay_factor * r_front))
    side_ahead = torch.where(r_front < 0.2, zero, torch.exp(-options.side_decay_factor * (1 - r_front)))
    side_behind = torch.where(r_back > 0.8, zero, torch.exp(-options.side_decay_factor * r_back) / 2)

    negatives = torch.stack(
        [torch.where(behind, torch.ones_like(front), front_ahead), torch.where(behind, side_behind, side_ahead)], -1
    )
    return options.negative_w * (1 - overhead)[..., None] * negatives


@dataclass(frozen=True)
class PromptEmbeddings:
    """A prompt, encoded once for every view."""

    views: Tensor  # [4, L, D] in the order of VIEW_WORDS, or [5, L, D] in that of SIDED_WORDS
    negative: Tensor  # [L, D]
    empty: Tensor  # [L, D] of no words at all

    def condition(self, azimuth: Tensor, elevation: Tensor, options: ViewOptions) -> Conditioning:
        """The conditioning of B views: blended embeddings, and Perp-Neg's negatives where the options ask for it."""
        azimuth, elevation = azimuth.float(), elevation.float()
        weights = view_weights(azimuth, elevation, options.angle_front, options.angle_overhead, sided=options.sided)
        batch, device = len(weights), self.views.device
        positive = torch.einsum("bv,vld->bld", sent(weights, device), self.views.float()).to(self.views.dtype)
        uncond = self.negative.expand(batch, -1, -1)
        if not options.perpneg:
            return Conditioning(positive, uncond)
        # The side that is seen.
        seen = sent(torch.where(on_the_left(azimuth), 1, len(self.views) - 1 if options.sided else 1), device)
        negatives = torch.stack([self.views[:1].expand(batch, -1, -1), self.views[seen]], 1)
        side = weights[:, 1:2] + weights[:, 4:].sum(1, keepdim=True)  # left and right together
        by_view = torch.cat([weights[:, :1], side, weights[:, 2:4]], 1)
        return Conditioning(positive, uncond, negatives, sent(perp_neg_weights(by_view, options), device))


def on_the_left(azimuth: Tensor) -> Tensor:
    """Whether a view shows the object's own left side."""
    return azimuth % 360 < 180


def _degrees_from_front(azimuth: Tensor) -> Tensor:
    """Angle between the view and azimuth 0, in [0, 180] degrees, for any azimuth."""
    return ((azimuth + 180) % 360 - 180).abs()
