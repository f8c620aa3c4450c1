"""The packed renderer: samples only where the occupancy grid says there is something."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nerf.fields.base import Field
from nerf.occupancy import OccupancyGrid
from nerf.renderers.base import Integral, Renderer, Request, in_blocks, perturbed
from nerf.shading import per_sample, shade
from nerf.types import RaySamples, Rays
from raymarching import composite_rays_train, march_rays_train

MIN_TRANSMITTANCE = 1e-4  # a ray ends where less than this of the light comes through


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
        normal_weight: Samples that weigh less get no normal (zero instead) and so only ambient light.
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
        normal_weight: float = 1e-4,
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
        if self.cull:
            samples = self._culled(samples)
        sigmas, albedo = in_blocks(self.field.query, samples.positions)
        normals, colour = None, albedo
        if request.normals:
            normals = self._normals(sigmas, samples)
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
            found["normals_perturbed"] = self._perturbed_normals(weights, samples.positions, request.generator)
        return Integral(blend[:, :3], opacity, depth, blend[:, 3:], found)

    @torch.no_grad()
    def _weights(self, sigmas: Tensor, samples: RaySamples) -> Tensor:
        channel = sigmas[:, None]
        return composite_rays_train(sigmas, channel, samples.ts, samples.packed_info, MIN_TRANSMITTANCE)[0]

    @torch.no_grad()
    def _culled(self, samples: RaySamples) -> RaySamples:
        """The samples that weigh anything."""
        weights = self._weights(in_blocks(self.field.density, samples.positions), samples)
        keep = weights > 0
        kept = keep.nonzero()[:, 0]
        if len(kept) == len(keep):
            return samples
        before = torch.cat([keep.new_zeros(1, dtype=torch.int32), keep.cumsum(0, dtype=torch.int32)])
        first, count = samples.packed_info.long().unbind(1)
        first, last = before[first], before[first + count]
        return RaySamples(
            samples.positions[kept],
            samples.directions[kept],
            samples.ts[kept],
            torch.stack([first, last - first], 1),
        )

    def _normals(self, sigmas: Tensor, samples: RaySamples) -> Tensor:
        weights = self._weights(sigmas.detach(), samples)
        return self._normals_where(weights, samples.positions)

    def _normals_where(self, weights: Tensor, positions: Tensor) -> Tensor:
        """Normals of the samples that weigh enough, zero for the others. [M, 3]"""
        chosen = (weights > self.normal_weight).nonzero()[:, 0]
        normals = in_blocks(self.field.normal, positions[chosen])
        return normals.new_zeros(positions.shape).index_copy(0, chosen, normals)

    def _perturbed_normals(self, weights: Tensor, positions: Tensor, generator: torch.Generator | None) -> Tensor:
        return self._normals_where(weights.detach(), perturbed(positions, self.field, generator))
