"""The operators in plain torch: the oracle of the tests and the fallback (--ops torch).

Marching is brute force: every point of every ray's lattice is looked up, nothing is skipped. Any float dtype.
Arguments and results are those of the functions people call, in grid.py, march.py and composite.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from raymarching.reference_composite import composite_rays, composite_rays_train

__all__ = [
    "composite_rays",
    "composite_rays_train",
    "flatten_rays",
    "march_rays",
    "march_rays_train",
    "morton3D",
    "morton3D_invert",
    "near_far_from_aabb",
    "packbits",
    "sph_from_ray",
]

POINTS_AT_ONCE = 1 << 20  # bounds the memory of a march


def near_far_from_aabb(rays_o: Tensor, rays_d: Tensor, aabb: Tensor, min_near: float = 0.2) -> tuple[Tensor, Tensor]:
    inverse = 1 / torch.where(rays_d.abs() < 1e-15, 1e-15, rays_d)
    a, b = (aabb[:3] - rays_o) * inverse, (aabb[3:] - rays_o) * inverse
    near = torch.minimum(a, b).amax(1).clamp_min(min_near)
    far = torch.maximum(a, b).amin(1)
    hit = near < far
    return torch.where(hit, near, min_near), torch.where(hit, far, min_near)


def sph_from_ray(rays_o: Tensor, rays_d: Tensor, radius: float) -> Tensor:
    a, b = (rays_d * rays_d).sum(1), (rays_o * rays_d).sum(1)
    c = (rays_o * rays_o).sum(1) - radius**2
    t = ((b * b - a * c).clamp_min(0).sqrt() - b) / a
    x, y, z = (rays_o + t[:, None] * rays_d).unbind(1)
    return torch.stack([torch.atan2(torch.hypot(x, z), y) * (2 / math.pi) - 1, torch.atan2(x, z) / math.pi], 1)


def morton3D(coords: Tensor) -> Tensor:
    coords = coords.long()
    bit = torch.arange(10, device=coords.device)
    spread = (((coords[..., None] >> bit) & 1) << (3 * bit)).sum(-1)  # [..., 3]
    return (spread << torch.arange(3, device=coords.device)).sum(-1).int()


def morton3D_invert(indices: Tensor) -> Tensor:
    bit = torch.arange(10, device=indices.device)
    axis = torch.arange(3, device=indices.device)[:, None]
    return (((indices.long()[..., None, None] >> (3 * bit + axis)) & 1) << bit).sum(-1).int()


def packbits(grid: Tensor, thresh: float | Tensor) -> Tensor:
    above = (grid.reshape(-1, 8) > thresh).int()
    return (above << torch.arange(8, device=grid.device, dtype=torch.int32)).sum(1).to(torch.uint8)


def flatten_rays(packed_info: Tensor, M: int) -> Tensor:
    first, count = packed_info.long().unbind(1)
    ray = torch.repeat_interleave(torch.arange(len(count), device=count.device), count)
    within = torch.arange(len(ray), device=count.device) - (count.cumsum(0) - count)[ray]
    owner = torch.full((M,), -1, dtype=torch.int32, device=count.device)
    owner[first[ray] + within] = ray.int()
    return owner


@dataclass(frozen=True)
class Lattice:
    """Distances of the points of a ray: sample k depends on k alone. March.h explains."""

    gamma: float
    dt_min: float
    dt_max: float

    @classmethod
    def of(cls, bound: float, H: int, dt_gamma: float, max_steps: int) -> Lattice:
        diagonal = 2 * math.sqrt(3)
        return cls(dt_gamma, diagonal / max_steps, max(diagonal * bound / H, diagonal / max_steps))

    def step_length(self, t: Tensor) -> Tensor:
        return (self.gamma * t).clamp(self.dt_min, self.dt_max)

    def to_steps(self, t: Tensor) -> Tensor:
        if not self.gamma:
            return t / self.dt_min
        grow, full = self.dt_min / self.gamma, self.dt_max / self.gamma
        middle = (1 + (t.clamp(grow, full) / grow).log()) / self.gamma
        return t.clamp_max(grow) / self.dt_min - 1 / self.gamma + middle + (t - full).clamp_min(0) / self.dt_max

    def from_steps(self, x: Tensor) -> Tensor:
        grow, full = self.dt_min / self.gamma, self.dt_max / self.gamma
        x_grow, x_full = 1 / self.gamma, (1 + math.log(full / grow)) / self.gamma
        middle = grow * ((x.clamp(x_grow, x_full) - x_grow) * self.gamma).exp()
        return x.clamp_max(x_grow) * self.dt_min - grow + middle + (x - x_full).clamp_min(0) * self.dt_max

    def start(self, near: Tensor, jitter: Tensor) -> Tensor:
        return self.to_steps(near) + jitter if self.gamma else jitter * self.dt_min + near

    def distance(self, place: Tensor, k: Tensor) -> Tensor:
        k = k.to(place.dtype)
        return self.from_steps(place + k) if self.gamma else k * self.dt_min + place

    def first_index(self, place: Tensor, t: Tensor) -> Tensor:
        x = self.to_steps(t) - place if self.gamma else (t - place) / self.dt_min
        return (x - 1 / 16).ceil().clamp_min(0).long()


def _is_occupied(p: Tensor, dt: Tensor, bound: float, bitfield: Tensor, C: int, H: int) -> Tensor:
    """Whether the cells that hold points p [..., 3] of step length dt [...] are set. [...]"""
    cells_per_unit = H / (2 * bound)
    need = torch.maximum(p.abs().amax(-1) * (1 / bound), dt * cells_per_unit)
    level = (torch.frexp(need).exponent.long() + C - 1).clamp(0, C - 1)
    scale = (cells_per_unit * 2.0 ** (C - 1 - level)).to(p.dtype)
    cell = (p * scale[..., None] + H / 2).clamp(0, H).long().clamp_max(H - 1)
    index = level * H**3 + morton3D(cell)
    return (bitfield[index >> 3] >> (index & 7) & 1).bool()


def _lattice_samples(rays_o, rays_d, bound, bitfield, C, H, fars, place, first, lattice):
    """All points from index first [N] on, of all rays: p [N, K, 3], ts [N, K, 2], and which are samples [N, K]."""
    steps = lattice.to_steps(fars) - (place if lattice.gamma else place / lattice.dt_min)
    K = max(0, math.ceil(float(steps.max())) + 1) if len(place) else 0
    k = first[:, None] + torch.arange(K, device=rays_o.device)
    t = lattice.distance(place[:, None], k)
    p = t[..., None] * rays_d[:, None] + rays_o[:, None]
    dt = lattice.step_length(t)
    taken = (t < fars[:, None]) & _is_occupied(p, dt, bound, bitfield, C, H)
    return p, torch.stack([t, dt], -1), taken


def march_rays_train(
    rays_o, rays_d, bound, density_bitfield, C, H, nears, fars, *, noises=None, dt_gamma=0.0, max_steps=1024, rows=None
):
    lattice = Lattice.of(bound, H, dt_gamma, max_steps)
    jitter = torch.full_like(nears, 0.5) if noises is None else noises
    longest = lattice.to_steps(fars) - lattice.to_steps(nears)
    points = max(1, math.ceil(float(longest.max()))) if len(nears) else 1
    block = max(1, POINTS_AT_ONCE // points)
    pieces, counts = [(rays_o[:0], rays_d[:0], rays_o[:0, :2])], [nears.new_zeros(0, dtype=torch.int64)]
    for o, d, near, far, u in zip(*(x.split(block) for x in (rays_o, rays_d, nears, fars, jitter)), strict=True):
        place, first = lattice.start(near, u), torch.zeros_like(near, dtype=torch.int64)
        p, ts, taken = _lattice_samples(o, d, bound, density_bitfield, C, H, far, place, first, lattice)
        taken &= (near < far)[:, None]
        pieces.append((p[taken], d[:, None].expand_as(p)[taken], ts[taken]))
        counts.append(taken.sum(1))
    count = torch.cat(counts)
    samples = [torch.cat(parts) for parts in zip(*pieces, strict=True)]
    if rows is not None:
        fitting = int(count[count.cumsum(0) <= rows].sum())
        samples = [torch.cat([part[:fitting], part.new_zeros(rows - fitting, part.shape[1])]) for part in samples]
    return *samples, torch.stack([count.cumsum(0) - count, count], 1).int()


def march_rays(
    n_alive,
    n_step,
    rays_alive,
    rays_t,
    rays_o,
    rays_d,
    bound,
    density_bitfield,
    C,
    H,
    nears,
    fars,
    *,
    noises=None,
    dt_gamma=0.0,
    max_steps=1024,
):
    lattice = Lattice.of(bound, H, dt_gamma, max_steps)
    jitter = torch.full_like(nears, 0.5) if noises is None else noises
    samples = rays_o.new_zeros(n_alive, n_step, 8)  # position, direction, distance, length
    slots = (rays_alive[:n_alive] >= 0).nonzero()[:, 0]
    ray = rays_alive[slots].long()
    o, d, place = rays_o[ray], rays_d[ray], lattice.start(nears[ray], jitter[ray])
    first = lattice.first_index(place, rays_t[ray])
    p, ts, taken = _lattice_samples(o, d, bound, density_bitfield, C, H, fars[ray], place, first, lattice)
    rank = taken.cumsum(1) - 1
    row, column = (taken & (rank < n_step)).nonzero(as_tuple=True)
    found = torch.cat([p[row, column], d[row], ts[row, column]], 1)
    samples[slots[row], rank[row, column]] = found
    xyzs, dirs, ts = samples.reshape(-1, 8).split([3, 3, 2], 1)
    return xyzs.contiguous(), dirs.contiguous(), ts.contiguous()
