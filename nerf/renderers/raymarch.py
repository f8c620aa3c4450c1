"""The packed renderer: samples only where the occupancy grid says there is something."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nerf.fields.base import Field
from nerf.occupancy import OccupancyGrid
from nerf.renderers.base import Integral, Renderer, Request, in_blocks, perturbed
from nerf.shading import per_sample, shade
from nerf.types import Rays, RaySamples
from raymarching import composite_rays_train, march_rays_train

MIN_TRANSMITTANCE = 1e-4  # a ray ends where less than this of the light comes through
LOOKS = 4  # random points of each cell at which a lost occupancy grid is found again
CPU_ROUND = (
    16  # samples of each ray between two looks at which rays have ended; on a GPU looking costs more than sampling
)


class RaymarchRenderer(Renderer):
    """Marches every ray through an occupancy grid and blends the samples front to back.

    Args:
        field: Density and albedo.
        background: Direction [N, 3] -> colour [N, 3], or None for white.
        max_steps: Steps along the diagonal of a box of bound 1; the length of a step follows from it.
        dt_gamma: Steps grow with distance by this factor, 0 for equal steps.
        min_near: Nothing nearer to a camera is seen, scene units.
        density_thresh: Cells below min(this, mean density) are skipped, 1/scene unit.
        update_interval: Training steps between updates of the occupancy grid.
        resolution, warmup_updates, decay: Of the occupancy grid.
        cull: Find the samples that weigh nothing, because the ray has ended before them, by their density alone and
            without gradients, and evaluate only the others. Exact; it pays as soon as there are surfaces.
        normal_weight: Samples that weigh less get no normal (zero instead) and so only ambient light. At 0.001 the
            gradient of a lambertian picture has a cosine of 0.9999 with the exact one, at 0.01 of 0.999.
        max_ray_batch: Rays at a time without gradients.
    """

    def __init__(
        self,
        field: Field,
        background: nn.Module | None = None,
        *,
        max_steps: int = 1024,
        dt_gamma: float = 0.0,
        min_near: float = 0.01,
        density_thresh: float = 10.0,
        update_interval: int = 16,
        resolution: int = 128,
        warmup_updates: int = 16,
        decay: float = 0.95,
        cull: bool = True,
        normal_weight: float = 1e-3,
        max_ray_batch: int = 1 << 14,
    ):
        super().__init__(field, background, min_near=min_near, max_ray_batch=max_ray_batch)
        if max_steps < 1:
            raise ValueError(f"a ray needs at least 1 step, got {max_steps}")
        if update_interval < 1:
            raise ValueError(f"the occupancy grid needs an update interval of at least 1 step, got {update_interval}")
        self.max_steps = max_steps
        self.dt_gamma = float(dt_gamma)
        self.update_interval = update_interval
        self.cull = cull
        self.normal_weight = normal_weight
        self.occupancy = OccupancyGrid(
            field.bound,
            resolution=resolution,
            density_thresh=density_thresh,
            decay=decay,
            warmup_updates=warmup_updates,
        )

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False):
        """As in torch; where there is no occupancy grid (another renderer's state) it is found again from the field."""
        found = any(name.startswith("occupancy.") for name in state_dict)
        grid = {} if found else {f"occupancy.{name}": value for name, value in self.occupancy.state_dict().items()}
        result = super().load_state_dict({**state_dict, **grid}, strict, assign)
        if not found:
            generator = torch.Generator().manual_seed(0)
            for _ in range(LOOKS):
                self.occupancy.update(self.field.density, generator=generator)
        return result

    def update(self, step: int, *, generator: torch.Generator | None = None) -> None:
        """Look at the field again every `update_interval` steps, step 0 included."""
        if step % self.update_interval == 0:
            self.occupancy.update(self.field.density, generator=generator)

    def march(self, rays: Rays, generator: torch.Generator | None = None) -> RaySamples:
        """The samples of every ray in occupied cells; with a generator each ray starts at a random part of a step."""
        noises = None
        if generator is not None:
            noises = torch.rand(len(rays.near), generator=generator, device=generator.device).to(rays.near.device)
        grid = self.occupancy
        return RaySamples(
            *march_rays_train(
                rays.origins,
                rays.directions,
                self.field.bound,
                grid.bitfield,
                grid.cascades,
                grid.resolution,
                rays.near,
                rays.far,
                noises=noises,
                dt_gamma=self.dt_gamma,
                max_steps=self.max_steps,
            )
        )

    def integrate(self, rays: Rays, request: Request) -> Integral:
        samples = self.march(rays, request.generator)
        if torch.is_grad_enabled():
            if self.cull:
                samples = _pick(samples, self._visible(samples, lambda x: (self.field.density(x),))[0])
            sigmas, albedo = self.field.query(samples.positions)
        else:
            kept, sigmas, albedo = self._visible(samples, self.field.query)
            samples = _pick(samples, kept)
        normals, colour = None, albedo
        if request.normals:
            normals = self._normals(self._weights(sigmas.detach(), samples), samples.positions)
            lights = per_sample(request.lights, samples.packed_info[:, 1], len(sigmas))
            # One blend for colour and normal: the weights are computed once.
            colour = torch.cat([shade(request.shading, albedo, normals, lights), normals], 1)
        weights, opacity, depth, blend = composite_rays_train(
            sigmas, colour, samples.ts, samples.packed_info, MIN_TRANSMITTANCE
        )
        found = {
            "weights": weights,
            "sigmas": sigmas,
            "positions": samples.positions,
            "directions": samples.directions,
            "ts": samples.ts,
            "packed_info": samples.packed_info,
        }
        if normals is None:
            return Integral(blend, opacity, depth, None, found)
        found["normals"] = normals
        if request.perturb:
            moved = perturbed(samples.positions, self.field, request.generator)
            found["normals_perturbed"] = self._normals(weights.detach(), moved)
        return Integral(blend[:, :3], opacity, depth, blend[:, 3:], found)

    @torch.no_grad()
    def _visible(self, samples: RaySamples, evaluate: Callable[[Tensor], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """Go along all rays together, some samples at a time, each until it has ended.

        Args:
            evaluate: Positions [K, 3] -> density [K], and more if wanted.

        Returns:
            The indices of the samples that weigh anything, ascending [K], and what `evaluate` gave for them.
        """
        first, count = samples.packed_info.long().unbind(1)
        lengths = samples.ts[:, 1]
        found = [value.new_zeros(len(lengths), *value.shape[1:]) for value in evaluate(samples.positions[:0])]
        optical_depth = lengths.new_zeros(len(count))
        on_cpu = lengths.device.type == "cpu"
        steps = torch.arange(CPU_ROUND if on_cpu else self.max_steps, device=lengths.device)
        alive = count.nonzero()[:, 0]
        while len(alive):
            inside = steps < count[alive, None]
            index = (first[alive, None] + steps)[inside]
            for store, value in zip(found, in_blocks(evaluate, samples.positions[index]), strict=True):
                store[index] = value
            passed = lengths.new_zeros(inside.shape).masked_scatter(inside, found[0][index] * lengths[index])
            optical_depth[alive] += passed.sum(1)
            steps = steps + len(steps)
            # A little beyond the end: which sample is the last is for the blend to decide, by its own rounding.
            ended = optical_depth[alive] > -1.01 * math.log(MIN_TRANSMITTANCE)
            alive = alive[~ended & (count[alive] > steps[0])]
        kept = self._weights(found[0], samples).nonzero()[:, 0]
        return kept, *(store[kept] for store in found)

    @torch.no_grad()
    def _weights(self, sigmas: Tensor, samples: RaySamples) -> Tensor:
        channel = sigmas[:, None]
        return composite_rays_train(sigmas, channel, samples.ts, samples.packed_info, MIN_TRANSMITTANCE)[0]

    def _normals(self, weights: Tensor, positions: Tensor) -> Tensor:
        """Normals of the samples that weigh enough, zero for the others. [M, 3]"""
        chosen = (weights > self.normal_weight).nonzero()[:, 0]
        normals = in_blocks(self.field.normal, positions[chosen])
        return normals.new_zeros(positions.shape).index_copy(0, chosen, normals)


def _pick(samples: RaySamples, kept: Tensor) -> RaySamples:
    """Only the samples with these indices, ascending. kept [K] int64"""
    if len(kept) == len(samples.ts):
        return samples
    ends = samples.packed_info[:, 0] + samples.packed_info[:, 1]
    first = torch.searchsorted(kept, samples.packed_info[:, 0].long())
    count = torch.searchsorted(kept, ends.long()) - first
    return RaySamples(
        samples.positions[kept],
        samples.directions[kept],
        samples.ts[kept],
        torch.stack([first, count], 1).int(),
    )
