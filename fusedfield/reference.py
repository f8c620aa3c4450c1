"""The field in plain torch: the oracle of the tests, and what serves where there is no kernel.

Differentiable any number of times by autograd, in positions too. float64 arguments give float64.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from gridencoder import reference

MAX_EXPONENT = 15.0  # exp(15) = 3.3e6 per scene unit: opaque within a micron of it


class _TruncatedExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.exp(x.clamp(max=MAX_EXPONENT))

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad * torch.exp(x.clamp(max=MAX_EXPONENT))


def truncated_exp(x: Tensor) -> Tensor:
    """exp(min(x, 15)) whose gradient does not vanish where it is clamped, so that a density can come back down.

    Any shape; differentiable twice.
    """
    return _TruncatedExp.apply(x)


class _RoundedGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return grad.bfloat16().to(grad.dtype)


def mixed_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """F.linear of what is rounded to bf16, `bias` apart; so is the gradient of its result. Sums are not rounded."""
    x, weight = (t + (t.detach().bfloat16().to(t.dtype) - t.detach()) for t in (x, weight))
    return _RoundedGradient.apply(F.linear(x, weight, bias))


ACTIVATIONS = {"none": lambda x: x, "exp": truncated_exp, "softplus": F.softplus}


def density_blob(x: Tensor, peak: float, radius: float) -> Tensor:
    """A bump that is `peak` at the origin and 0 at distance `radius`, falling linearly. [M, 3] -> [M]

    Added to the raw density it makes training start from a small ball (DreamFusion, arXiv:2209.14988, section 3.2).
    """
    # The 1e-8 keeps second derivatives finite at the origin and moves the peak by 0.05 %.
    distance = x.square().sum(-1).add(1e-8).sqrt()
    return peak - (peak / radius) * distance


def field_query(
    positions: Tensor,
    embeddings: Tensor,
    layers: Sequence[tuple[Tensor, Tensor]],
    offsets: list[int],
    resolutions: list[int],
    *,
    hashed: bool,
    align_corners: bool,
    smoothstep: bool,
    active: int,
    bound: float,
    activation: str,
    blob_density: float,
    blob_radius: float,
    mixed: bool,
    outputs: int,
) -> tuple[Tensor, Tensor]:
    """fusedfield.field_query, its options resolved."""
    x = reference.grid_encode(
        (positions + bound) / (2 * bound),
        embeddings,
        offsets,
        resolutions,
        hashed=hashed,
        align_corners=align_corners,
        smoothstep=smoothstep,
        active=active,
    )
    linear = mixed_linear if mixed else F.linear
    for weight, bias in layers[:-1]:
        x = F.relu(linear(x, weight, bias))
    weight, bias = layers[-1]
    raw = linear(x, weight[:outputs], bias[:outputs])
    sigma = ACTIVATIONS[activation](raw[:, 0] + density_blob(positions, blob_density, blob_radius))
    return sigma, torch.sigmoid(raw[:, 1:])


def field_query_rays(
    positions: Tensor, lengths: Tensor, packed_info: Tensor, limit: float, *field, outputs: int, **options
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """fusedfield.field_query_rays, its options resolved: rays side by side, padded to the longest."""
    M, (first, count) = len(positions), packed_info.long().unbind(1)
    place = torch.arange(int(count.max()) if len(count) else 0, device=positions.device)
    index = torch.where(place < count[:, None], first[:, None] + place, M)  # [N, K], M: padding
    with torch.no_grad():
        sigma, _ = field_query(positions, *field, outputs=1, **options)
        depth = torch.cat([sigma * lengths, sigma.new_zeros(1)])[index].double()
        before = depth.cumsum(1) - depth
        reached = (index < M) & ~(before > limit)
    kept = index[reached]
    return *field_query(positions[kept], *field, outputs=outputs, **options), kept, reached.sum(1).int()
