"""The field in plain torch: the oracle of the tests, and what serves where there is no kernel.

Differentiable any number of times by autograd, in positions too. float64 arguments give float64.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from gridencoder import reference

MAX_EXPONENT = 15.0


class _Exp(torch.autograd.Function):
    """exp(min(x, 15)) with the gradient of an exponential that is not clamped: itself."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        y = x.clamp(max=MAX_EXPONENT).exp()
        ctx.save_for_backward(x)
        return y

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradient * x.clamp(max=MAX_EXPONENT).exp()


ACTIVATIONS = {"none": lambda x: x, "exp": _Exp.apply, "softplus": F.softplus}


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
    for weight, bias in layers[:-1]:
        x = F.relu(F.linear(x, weight, bias))
    weight, bias = layers[-1]
    raw = F.linear(x, weight[:outputs], bias[:outputs])
    distance = (positions.square().sum(-1) + 1e-8).sqrt()
    sigma = ACTIVATIONS[activation](raw[:, 0] + blob_density - blob_density / blob_radius * distance)
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
