"""Where rays meet boxes and spheres, and the samples they take in the occupied cells of a grid.

Nothing here is differentiable: samples are places, and places carry no gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor

from raymarching import reference
from raymarching.dispatch import check_integers, check_shape, compute_type, native


def near_far_from_aabb(rays_o: Tensor, rays_d: Tensor, aabb: Tensor, min_near: float = 0.2) -> tuple[Tensor, Tensor]:
    """The part of each ray inside a box, in front of the camera (slab method).

    Args:
        rays_o: Origins, scene units. [N, 3]
        rays_d: Directions; distances are in units of their length. [N, 3]
        aabb: Smallest, then largest corner of the box. [6]
        min_near: Nothing nearer than this counts.

    Returns:
        nears, fars: near < far, or near = far = min_near for a ray that misses the box. [N], [N]

    Raises:
        ValueError: wrong shapes.
    """
    check_shape("rays_o", rays_o, -1, 3)
    check_shape("rays_d", rays_d, rays_o.shape[0], 3)
    check_shape("aabb", aabb, 6)
    dtype = compute_type(rays_o, rays_d)
    rays_o, rays_d, aabb = (tensor.detach().to(dtype) for tensor in (rays_o, rays_d, aabb))
    if native(rays_o, rays_d):
        return torch.ops.raymarching.near_far_from_aabb(rays_o, rays_d, aabb.to(rays_o.device), float(min_near))
    return reference.near_far_from_aabb(rays_o, rays_d, aabb.to(rays_o.device), min_near)


def sph_from_ray(rays_o: Tensor, rays_d: Tensor, radius: float) -> Tensor:
    """Where rays leave a sphere around the origin, as angles: coordinates for a background picture.

    Args:
        rays_o: Origins, usually inside the sphere, scene units. [N, 3]
        rays_d: Directions of any length. [N, 3]
        radius: Of the sphere. A ray that misses it gets the direction of its nearest point.

    Returns:
        polar angle from +y and azimuth from +z towards +x, scaled from [0, pi] and [-pi, pi] to [-1, 1]. [N, 2]

    Raises:
        ValueError: wrong shapes.
    """
    check_shape("rays_o", rays_o, -1, 3)
    check_shape("rays_d", rays_d, rays_o.shape[0], 3)
    dtype = compute_type(rays_o, rays_d)
    rays_o, rays_d = rays_o.detach().to(dtype), rays_d.detach().to(dtype)
    if native(rays_o, rays_d):
        return torch.ops.raymarching.sph_from_ray(rays_o, rays_d, float(radius))
    return reference.sph_from_ray(rays_o, rays_d, radius)


def march_rays_train(
    rays_o: Tensor,
    rays_d: Tensor,
    bound: float,
    density_bitfield: Tensor,
    C: int,
    H: int,
    nears: Tensor,
    fars: Tensor,
    *,
    noises: Tensor | None = None,
    dt_gamma: float = 0.0,
    max_steps: int = 1024,
    rows: int | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """All samples of all rays in occupied cells, one ray after the other (Instant-NGP, arXiv:2201.05989, appendix E).

    Steps have length clamp(dt_gamma * t, 2 sqrt(3) / max_steps, 2 sqrt(3) bound / H), the lower limit winning. The
    samples of a ray are those points of this fixed lattice whose cell is set; skipping empty space does not move them.
    With dt_gamma 0 the box of bound 1 is crossed in at most max_steps steps, a larger one in proportionally more.

    Args:
        rays_o: Origins, scene units. [N, 3]
        rays_d: Unit directions. [N, 3]
        bound: Half the edge of the scene's box.
        density_bitfield: Occupied cells, uint8, as `packbits` makes it. [C * H^3 / 8]
        C: Cascades: nested cubes, see `cascade_half_width`.
        H: Cells along an edge, a power of two in [4, 1024].
        nears: Distance at which each ray starts. [N]
        fars: Distance at which it ends; no samples where far <= near. [N]
        noises: Where in its step each sample lies, in [0, 1); None: in the middle. [N]
        dt_gamma: Growth of steps with distance, >= 0.
        max_steps: Steps along the diagonal of the unit box, >= 1.
        rows: How many samples to make room for; None: for as many as there are. A GPU is waited for then, to learn M.

    Returns:
        xyzs [M, 3], dirs [M, 3], ts [M, 2]: distance of the sample and length of its step, packed_info [N, 2]: first
        sample and sample count, int32. With `rows`, M is that, and rows that no ray owns are zeros; packed_info says
        what the rays have all the same (its last row summed is how many rows it takes), and the samples of a ray that
        does not fit are left out.

    Raises:
        ValueError: shapes that disagree, or numbers out of range.
    """
    if rows is not None and rows < 0:
        raise ValueError(f"there cannot be room for {rows} samples")
    rays = _checked_rays(rays_o, rays_d, bound, density_bitfield, C, H, nears, fars, noises, dt_gamma, max_steps)
    if native(*rays):
        settings = float(bound), C, H, float(dt_gamma), max_steps, rows
        return torch.ops.raymarching.march_rays_train(*rays, *settings)
    rays_o, rays_d, density_bitfield, nears, fars, noises = rays
    options = {"noises": noises, "dt_gamma": dt_gamma, "max_steps": max_steps, "rows": rows}
    return reference.march_rays_train(rays_o, rays_d, bound, density_bitfield, C, H, nears, fars, **options)


def march_rays(
    n_alive: int,
    n_step: int,
    rays_alive: Tensor,
    rays_t: Tensor,
    rays_o: Tensor,
    rays_d: Tensor,
    bound: float,
    density_bitfield: Tensor,
    C: int,
    H: int,
    nears: Tensor,
    fars: Tensor,
    *,
    noises: Tensor | None = None,
    dt_gamma: float = 0.0,
    max_steps: int = 1024,
) -> tuple[Tensor, Tensor, Tensor]:
    """The next few samples of the rays still alive: the same lattice as `march_rays_train`, taken in pieces.

    Args:
        n_alive: How many entries of `rays_alive` count.
        n_step: Samples per ray.
        rays_alive: Rays to march, -1 for none, int32. [>= n_alive]
        rays_t: Where each ray goes on: `nears` at first, then as `composite_rays` leaves it. [N]
        The others: as in `march_rays_train`.

    Returns:
        xyzs [n_alive * n_step, 3], dirs likewise, ts [n_alive * n_step, 2]; unused places are 0, dt = 0 marks them.

    Raises:
        ValueError: shapes that disagree, or numbers out of range.
    """
    rays = _checked_rays(rays_o, rays_d, bound, density_bitfield, C, H, nears, fars, noises, dt_gamma, max_steps)
    check_integers("rays_alive", rays_alive)
    check_shape("rays_t", rays_t, rays_o.shape[0])
    if not 0 <= n_alive <= rays_alive.shape[0]:
        raise ValueError(f"n_alive must be between 0 and the length of rays_alive {rays_alive.shape[0]}, got {n_alive}")
    if n_step < 1:
        raise ValueError(f"n_step must be at least 1, got {n_step}")
    alive, rays_t = rays_alive[:n_alive].int(), rays_t.detach().to(rays[0].dtype)
    if native(*rays, alive, rays_t):
        settings = float(bound), C, H, float(dt_gamma), max_steps, n_step
        return torch.ops.raymarching.march_rays(alive, rays_t, *rays, *settings)
    rays_o, rays_d, density_bitfield, nears, fars, noises = rays
    where = n_alive, n_step, alive, rays_t, rays_o, rays_d, bound, density_bitfield, C, H, nears, fars
    return reference.march_rays(*where, noises=noises, dt_gamma=dt_gamma, max_steps=max_steps)


def _checked_rays(
    rays_o: Tensor,
    rays_d: Tensor,
    bound: float,
    bitfield: Tensor,
    C: int,
    H: int,
    nears: Tensor,
    fars: Tensor,
    noises: Tensor | None,
    dt_gamma: float,
    max_steps: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """What every march needs, checked, without gradients and in one dtype."""
    count = rays_o.shape[0]
    check_shape("rays_o", rays_o, count, 3)
    check_shape("rays_d", rays_d, count, 3)
    check_shape("nears", nears, count)
    check_shape("fars", fars, count)
    if noises is not None:
        check_shape("noises", noises, count)
    if not 4 <= H <= 1024 or H & (H - 1):
        raise ValueError(f"H must be a power of two from 4 to 1024, got {H}")
    if not 1 <= C <= 16:
        raise ValueError(f"C must be between 1 and 16 cascades, got {C}")
    if bitfield.dtype != torch.uint8 or bitfield.shape != (C * H**3 // 8,):
        raise ValueError(
            f"density_bitfield must be uint8 [{C * H**3 // 8}] for C={C} and H={H}, "
            f"got {bitfield.dtype} {list(bitfield.shape)}"
        )
    if not (bound > 0 and dt_gamma >= 0 and max_steps >= 1):
        raise ValueError(
            f"marching needs bound > 0, dt_gamma >= 0 and max_steps >= 1, got {bound}, {dt_gamma} and {max_steps}"
        )
    dtype = compute_type(rays_o, rays_d)
    rays_o, rays_d, nears, fars = (tensor.detach().to(dtype) for tensor in (rays_o, rays_d, nears, fars))
    return rays_o, rays_d, bitfield, nears, fars, None if noises is None else noises.detach().to(dtype)
