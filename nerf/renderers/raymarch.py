"""The packed renderer: samples only where the occupancy grid says there is something."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nerf.fields.base import Field
from nerf.fields.rays import in_blocks
from nerf.occupancy import OccupancyGrid
from nerf.renderers.base import Integral, Renderer, Request, perturbed
from nerf.renderers.room import Room
from nerf.shading import per_sample, shade
from nerf.types import Rays, RaySamples
from raymarching import composite_rays_train, march_rays_train

MIN_TRANSMITTANCE = 1e-4  # a ray ends where less than this of the light comes through
# Where the field ceases to be asked, a little beyond that: which sample is the last is for the blend to decide, by its
# own rounding. The samples between the two weigh nothing and have no gradient.
END = -1.01 * math.log(MIN_TRANSMITTANCE)
LOOKS = 4  # random points of each cell at which a lost occupancy grid is found again


class RaymarchRenderer(Renderer):
    """Marches every ray through an occupancy grid and blends the samples front to back.

    In training a GPU is not waited for to learn how many samples there are: see `Room` and `had_room`.

    Args:
        field: Density and albedo.
        background: Direction [N, 3] -> colour [N, 3], or None for white.
        max_steps: Steps along the diagonal of a box of bound 1; the length of a step follows from it.
        dt_gamma: Steps grow with distance by this factor, 0 for equal steps.
        min_near: Nothing nearer to a camera is seen, scene units.
        density_thresh: Cells below min(this, mean density) are skipped, 1/scene unit.
        update_interval: Training steps between updates of the occupancy grid.
        resolution, warmup_updates, decay: Of the occupancy grid.
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
        self.normal_weight = normal_weight
        self.occupancy = OccupancyGrid(
            field.bound,
            resolution=resolution,
            density_thresh=density_thresh,
            decay=decay,
            warmup_updates=warmup_updates,
        )
        self._samples, self._normals = Room(), Room()

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

    def had_room(self) -> bool:
        return all([room.was_enough() for room in (self._samples, self._normals)])

    def march(self, rays: Rays, generator: torch.Generator | None = None) -> RaySamples:
        """The samples of every ray in occupied cells; with a generator each ray starts at a random part of a step."""
        noises = None
        if generator is not None:
            noises = torch.rand(len(rays.near), generator=generator, device=generator.device).to(rays.near.device)
        grid, guesses = self.occupancy, _guesses(rays.near)
        rows = self._samples.rows() if guesses else None
        samples = RaySamples(
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
                rows=rows,
            )
        )
        if guesses:
            self._samples.need(samples.packed_info[-1].sum(), rows)
        return samples

    def integrate(self, rays: Rays, request: Request) -> Integral:
        samples = self.march(rays, request.generator)
        sigmas, albedo, kept, counts = self.field.query_rays(
            samples.positions, samples.ts[:, 1], samples.packed_info, END
        )
        samples = _pick(samples, kept, counts)
        normals, colour = None, albedo
        if request.normals:
            chosen = self._heavy(self._weights(sigmas.detach(), samples))
            normals = self._normals_of(chosen, samples.positions)
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
            found["normals_perturbed"] = self._normals_of(chosen, moved)
        return Integral(blend[:, :3], opacity, depth, blend[:, 3:], found)

    @torch.no_grad()
    def _weights(self, sigmas: Tensor, samples: RaySamples) -> Tensor:
        channel = sigmas[:, None]
        return composite_rays_train(sigmas, channel, samples.ts, samples.packed_info, MIN_TRANSMITTANCE)[0]

    def _heavy(self, weights: Tensor) -> Tensor:
        """The samples that weigh enough for a normal; rows that are left over have M, which is none of them. int64"""
        heavy, guesses = weights > self.normal_weight, _guesses(weights) and len(weights) > 0
        rows = self._normals.rows() if guesses else None
        if guesses:
            self._normals.need(heavy.sum(), rows)
        found = heavy.nonzero() if rows is None else heavy.nonzero_static(size=rows, fill_value=len(heavy))
        return found[:, 0]

    def _normals_of(self, chosen: Tensor, positions: Tensor) -> Tensor:
        """Normals of the samples that `_heavy` has chosen, zero for the others. [M, 3]"""
        count = len(positions)
        normals = in_blocks(self.field.normal, positions[chosen.clamp(max=count - 1)])
        return normals.new_zeros(count + 1, 3).index_copy(0, chosen, normals)[:count]


def _guesses(tensor: Tensor) -> bool:
    """Whether sizes are guessed, for one would have to wait for the device of this tensor, in a step of training."""
    return tensor.device.type == "cuda" and torch.is_grad_enabled()


def _pick(samples: RaySamples, kept: Tensor | None, counts: Tensor | None) -> RaySamples:
    """Only the samples with these indices. kept [K] int64, ascending; counts [N] int32, how many of each ray"""
    if kept is None or len(kept) == len(samples.ts):
        return samples
    first = counts.cumsum(0, dtype=torch.int32) - counts
    return RaySamples(
        *(of.index_select(0, kept) for of in (samples.positions, samples.directions, samples.ts)),
        torch.stack([first, counts], 1),
    )
