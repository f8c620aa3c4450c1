"""The stratified renderer: a fixed number of samples a ray, more of them where there is something. Plain torch.

NeRF, arXiv:2003.08934, section 5.2. Letters in shapes: N rays, S coarse samples, U added samples, T = S + U, M = N*T.
Edges cut the part of a ray inside the box into intervals, and every sample stands for the interval it lies in, so the
lengths of a ray's samples always add up to far - near.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nerf.fields.base import Field
from nerf.fields.rays import in_blocks
from nerf.renderers.base import Integral, Renderer, Request, perturbed
from nerf.shading import per_sample, shade
from nerf.types import Rays


def stratify(near: Tensor, far: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    """One distance in each of `count` equal intervals of [near, far]: random, or the middle. [N], [N] -> [N, count]"""
    inside = 0.5
    if generator is not None:
        inside = torch.rand(len(near), count, generator=generator, device=generator.device).to(near.device)
    share = (torch.arange(count, device=near.device, dtype=near.dtype) + inside) / count
    return near[:, None] + (far - near)[:, None] * share


def interval_edges(t: Tensor, near: Tensor, far: Tensor) -> Tensor:
    """Near, the middles between neighbouring samples, far. t ascending [N, S] -> [N, S + 1]"""
    return torch.cat([near[:, None], (t[:, 1:] + t[:, :-1]) / 2, far[:, None]], 1)


def sample_pdf(edges: Tensor, weights: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    """Draw distances from a density that is constant in each interval (inverse transform sampling).

    Args:
        edges: Ascending interval edges. [N, S + 1]
        weights: Unnormalised probability of each interval, >= 0; all zero means uniform by interval. [N, S]
        count: U, distances per ray.
        generator: One random number in each of U equal strata; None: their middles.

    Returns:
        Ascending distances. [N, U]
    """
    weights = weights + 1e-5  # no interval is impossible, and nothing divides by zero
    cdf = torch.cumsum(weights / weights.sum(1, keepdim=True), 1)
    cdf = torch.cat([torch.zeros_like(cdf[:, :1]), cdf], 1)
    zero, one = edges.new_zeros(len(edges)), edges.new_ones(len(edges))
    u = stratify(zero, one, count, generator)
    interval = (torch.searchsorted(cdf, u, right=True) - 1).clamp(0, weights.shape[1] - 1)
    low, high = cdf.gather(1, interval), cdf.gather(1, interval + 1)
    share = ((u - low) / (high - low).clamp(min=1e-12)).clamp(0, 1)
    left, right = edges.gather(1, interval), edges.gather(1, interval + 1)
    return left + (right - left) * share


def composite(sigmas: Tensor, lengths: Tensor) -> Tensor:
    """Weight of each sample (NeRF, eq. 3). sigmas, lengths [N, T] -> [N, T]; differentiable in both."""
    optical = sigmas * lengths
    before = F.pad(optical[:, :-1].cumsum(1), (1, 0))  # not by taking the last away: that loses what is small before it
    return -torch.expm1(-optical) * torch.exp(-before)


class StratifiedRenderer(Renderer):
    """`num_steps` samples along every ray and `upsample_steps` more where those found something.

    Args:
        field: Density and albedo.
        background: Direction [N, 3] -> colour [N, 3], or None for white.
        num_steps: Evenly spread samples per ray.
        upsample_steps: Samples added by importance, 0 for none.
        min_near: Nothing nearer to a camera is seen, scene units.
        max_ray_batch: Rays at a time without gradients.
    """

    def __init__(
        self,
        field: Field,
        background: nn.Module | None = None,
        *,
        num_steps: int = 64,
        upsample_steps: int = 32,
        min_near: float = 0.01,
        max_ray_batch: int = 4096,
    ):
        super().__init__(field, background, min_near=min_near, max_ray_batch=max_ray_batch)
        if num_steps < 1 or upsample_steps < 0:
            raise ValueError(f"a ray needs num_steps >= 1 and upsample_steps >= 0, got {num_steps} {upsample_steps}")
        self.num_steps, self.upsample_steps = num_steps, upsample_steps

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False):
        """As in torch; the occupancy grid of a packed renderer is left out."""
        own = {name: value for name, value in state_dict.items() if not name.startswith("occupancy.")}
        return super().load_state_dict(own, strict, assign)

    def integrate(self, rays: Rays, request: Request) -> Integral:
        t, sigmas, albedo = self._evaluate(rays, request.generator)
        lengths = interval_edges(t, rays.near, rays.far).diff(dim=1)
        weights = composite(sigmas, lengths)
        count = t.shape[1]
        positions = self._positions(rays, t).view(-1, 3)
        found = {
            "weights": weights.flatten(),
            "sigmas": sigmas.flatten(),
            "positions": positions,
            "directions": rays.directions.repeat_interleave(count, 0),
            "ts": torch.stack([t, lengths], -1).view(-1, 2),
            "packed_info": _packed_info(len(t), count, t.device),
        }
        colour, normal = albedo, None
        if request.normals:
            normals = in_blocks(self.field.normal, positions)
            found["normals"] = normals
            if request.perturb:
                moved = perturbed(positions, self.field, request.generator)
                found["normals_perturbed"] = self.field.normal(moved)
            lights = per_sample(request.lights, found["packed_info"][:, 1], len(positions))
            colour = shade(request.shading, albedo.reshape(-1, 3), normals, lights).view(albedo.shape)
            normal = _blend(weights, normals.view(albedo.shape))
        return Integral(_blend(weights, colour), weights.sum(1), (weights * t).sum(1), normal, found)

    def _evaluate(self, rays: Rays, generator: torch.Generator | None) -> tuple[Tensor, Tensor, Tensor]:
        """Distances [N, T], ascending, with density [N, T] and albedo [N, T, 3]; every point is queried once."""
        t = stratify(rays.near, rays.far, self.num_steps, generator)
        sigmas, albedo = self._query(rays, t)
        if not self.upsample_steps:
            return t, sigmas, albedo
        edges = interval_edges(t, rays.near, rays.far)
        weights = composite(sigmas.detach(), edges.diff(dim=1))
        added = sample_pdf(edges, weights, self.upsample_steps, generator)
        added_sigmas, added_albedo = self._query(rays, added)
        t, order = torch.sort(torch.cat([t, added], 1), dim=1, stable=True)
        sigmas = torch.cat([sigmas, added_sigmas], 1).gather(1, order)
        albedo = torch.cat([albedo, added_albedo], 1).gather(1, order[..., None].expand(-1, -1, 3))
        return t, sigmas, albedo

    def _positions(self, rays: Rays, t: Tensor) -> Tensor:
        points = rays.origins[:, None] + t[..., None] * rays.directions[:, None]
        return points.clamp(-self.field.bound, self.field.bound)

    def _query(self, rays: Rays, t: Tensor) -> tuple[Tensor, Tensor]:
        sigmas, albedo = in_blocks(self.field.query, self._positions(rays, t).view(-1, 3))
        return sigmas.view(t.shape), albedo.view(*t.shape, 3)


def _blend(weights: Tensor, values: Tensor) -> Tensor:
    """[N, T], [N, T, C] -> [N, C]"""
    return (weights[..., None] * values).sum(1)


def _packed_info(rays: int, count: int, device: torch.device) -> Tensor:
    first = torch.arange(rays, dtype=torch.int32, device=device) * count
    return torch.stack([first, torch.full_like(first, count)], 1)
