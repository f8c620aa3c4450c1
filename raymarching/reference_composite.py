"""Compositing in plain torch: rays side by side, padded to the longest; the derivative is autograd's."""

from __future__ import annotations

import torch
from torch import Tensor


def composite_rays_train(
    sigmas: Tensor, rgbs: Tensor, ts: Tensor, packed_info: Tensor, min_transmittance: float = 1e-4
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    M, (first, count) = len(sigmas), packed_info.long().unbind(1)
    longest = int(count.max()) if len(count) else 0
    place = torch.arange(longest, device=sigmas.device)
    index = torch.where(place < count[:, None], first[:, None] + place, M)  # [N, K], M: padding

    def side_by_side(x: Tensor) -> Tensor:
        return torch.cat([x, x.new_zeros(1, *x.shape[1:])])[index]

    tau = side_by_side(sigmas * ts[:, 1])
    behind = tau.cumsum(1)
    transmittance = torch.exp(-torch.cat([torch.zeros_like(tau[:, :1]), behind[:, :-1]], 1))
    weight = transmittance * -torch.expm1(-tau)
    weight = torch.where(transmittance >= min_transmittance, weight, 0.0)
    weights = sigmas.new_zeros(M + 1).scatter(0, index.flatten(), weight.flatten())[:M]
    depth = (weight * side_by_side(ts[:, 0])).sum(1)
    return weights, weight.sum(1), depth, (weight[..., None] * side_by_side(rgbs)).sum(1)


def composite_rays(
    n_alive, n_step, rays_alive, rays_t, sigmas, rgbs, ts, opacity, depth, image, min_transmittance=1e-4
) -> None:
    slots = (rays_alive[:n_alive] >= 0).nonzero()[:, 0]
    ray = rays_alive[slots].long()
    going = torch.ones_like(ray, dtype=torch.bool)
    for step in range(n_step):
        sample = slots * n_step + step
        t, dt = ts[sample].unbind(1)
        transmittance = 1 - opacity[ray]
        going &= (dt > 0) & (transmittance >= min_transmittance)
        weight = torch.where(going, transmittance * -torch.expm1(-sigmas[sample] * dt), 0.0)
        opacity[ray] += weight
        depth[ray] += weight * t
        image[ray] += weight[:, None] * rgbs[sample]
        end = t + 0.5 * dt
    going &= 1 - opacity[ray] >= min_transmittance
    rays_t[ray] = torch.where(going, end, rays_t[ray])
    rays_alive[slots] = torch.where(going, rays_alive[slots], -1)
