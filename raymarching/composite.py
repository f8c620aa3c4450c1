"""Blending the samples of rays front to back."""

from __future__ import annotations

import torch
from torch import Tensor

from raymarching import reference
from raymarching.dispatch import check_integers, check_shape, compute_type, native


def composite_rays_train(
    sigmas: Tensor, rgbs: Tensor, ts: Tensor, packed_info: Tensor, min_transmittance: float = 1e-4
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Blend the samples of each ray front to back (NeRF, arXiv:2003.08934, eq. 3).

    Differentiable once in `sigmas` and `rgbs`, through every output. A ray stops where transmittance falls below
    `min_transmittance`; the samples behind it get weight 0 and no gradient.

    Args:
        sigmas: Volume density, >= 0, in 1/scene unit. Half precision is computed in float32. [M]
        rgbs: What to blend: colour in [0, 1], or any other C channels. [M, C]
        ts: Distance to the sample and its length, in scene units. [M, 2]
        packed_info: First sample and sample count of each ray, int32; no sample belongs to two rays. [N, 2]
        min_transmittance: In [0, 1).

    Returns:
        weights [M], opacity [N], depth [N]: sum of weight times distance, rgb [N, C] premultiplied by opacity.

    Raises:
        ValueError: `rgbs` or `ts` disagree with `sigmas` in length.
    """
    check_shape("sigmas", sigmas, -1)
    check_shape("rgbs", rgbs, sigmas.shape[0], -1)
    check_shape("ts", ts, sigmas.shape[0], 2)
    check_shape("packed_info", packed_info, -1, 2)
    check_integers("packed_info", packed_info)
    dtype = compute_type(sigmas, rgbs)
    sigmas, rgbs, ts = sigmas.to(dtype), rgbs.to(dtype), ts.detach().to(dtype)
    if native(sigmas, rgbs, ts, packed_info):
        packed = packed_info.int()
        return torch.ops.raymarching.composite_rays_train(sigmas, rgbs, ts, packed, float(min_transmittance))[:4]
    return reference.composite_rays_train(sigmas, rgbs, ts, packed_info, min_transmittance)


@torch.no_grad()
def composite_rays(
    n_alive: int,
    n_step: int,
    rays_alive: Tensor,
    rays_t: Tensor,
    sigmas: Tensor,
    rgbs: Tensor,
    ts: Tensor,
    opacity: Tensor,
    depth: Tensor,
    image: Tensor,
    min_transmittance: float = 1e-4,
) -> None:
    """Blend the samples of one `march_rays` into the pictures, in place; not differentiable.

    A ray that has become opaque or found fewer than n_step samples is done: its entry of `rays_alive` becomes -1. The
    others go on behind their last sample: `rays_t`. Keep the rest for the next round with
    `rays_alive[rays_alive >= 0]`.

    Args:
        n_alive, n_step: As given to `march_rays`.
        rays_alive: Rays that were marched, each at most once, int32, written to. [>= n_alive]
        rays_t: Distance at which each ray goes on, written to. [N]
        sigmas: Volume density, >= 0, in 1/scene unit. [n_alive * n_step]
        rgbs: Colour in [0, 1], or any other C channels. [n_alive * n_step, C]
        ts: As `march_rays` gave it; dt = 0 ends a ray. [n_alive * n_step, 2]
        opacity, depth, image: Blended so far, 0 at first, written to. [N], [N], [N, C]
        min_transmittance: In [0, 1).

    Raises:
        ValueError: shapes that disagree, or a tensor to write to that is not contiguous, int32 or float32.
    """
    samples, rays = n_alive * n_step, rays_t.shape[0]
    if not 0 <= n_alive <= rays_alive.shape[0]:
        raise ValueError(f"n_alive must be between 0 and the length of rays_alive {rays_alive.shape[0]}, got {n_alive}")
    if n_step < 1:
        raise ValueError(f"n_step must be at least 1, got {n_step}")
    check_shape("sigmas", sigmas, samples)
    check_shape("rgbs", rgbs, samples, -1)
    check_shape("ts", ts, samples, 2)
    check_shape("opacity", opacity, rays)
    check_shape("depth", depth, rays)
    check_shape("image", image, rays, rgbs.shape[1])
    if rays_alive.dtype != torch.int32:
        raise ValueError(f"rays_alive must be int32, got {rays_alive.dtype}")
    dtype = rays_t.dtype
    for name, tensor in (("rays_t", rays_t), ("opacity", opacity), ("depth", depth), ("image", image)):
        if tensor.dtype != dtype or dtype not in (torch.float32, torch.float64) or not tensor.is_contiguous():
            raise ValueError(f"{name} must be contiguous float32 like rays_t, got {tensor.dtype} {tensor.stride()}")
    inputs = sigmas.to(dtype), rgbs.to(dtype), ts.to(dtype)
    alive, pictures = rays_alive[:n_alive], (opacity, depth, image)
    if native(rays_t, alive, *inputs, *pictures):
        torch.ops.raymarching.composite_rays(alive, rays_t, *inputs, *pictures, n_step, float(min_transmittance))
    else:
        reference.composite_rays(n_alive, n_step, alive, rays_t, *inputs, *pictures, min_transmittance)
