"""Which kernels serve a call, what the compiler needs to know about the native ones, and checks all functions share."""

from __future__ import annotations

import torch
from torch import Tensor

import extension


def native(tensor: Tensor, *others: Tensor | None) -> bool:
    """Whether the compiled operators serve this float32 or integer tensor; the torch references do otherwise.

    Raises ValueError where one of the others is on another device.
    """
    float32 = tensor.dtype == torch.float32 or not tensor.is_floating_point()
    return float32 and extension.serves("raymarching", tensor, *(other for other in others if other is not None))


def compute_type(*tensors: Tensor) -> torch.dtype:
    """float64 where any tensor is, float32 otherwise: half precision is not enough for distances and transmittance."""
    return torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32


def check_shape(name: str, tensor: Tensor, *shape: int) -> None:
    """Raise ValueError unless `tensor` has this shape; -1 takes any size."""
    fits = tensor.dim() == len(shape) and all(want in (-1, has) for want, has in zip(shape, tensor.shape, strict=True))
    if not fits:
        want = ", ".join("any" if size < 0 else str(size) for size in shape)
        raise ValueError(f"{name} must have shape [{want}], got {list(tensor.shape)}")


def check_integers(name: str, tensor: Tensor) -> None:
    """Raise ValueError for anything but int32 and int64."""
    if tensor.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"{name} must be int32, got {tensor.dtype}")


def register() -> None:
    """Shapes for torch.compile, and the derivative of compositing. Runs once, when the operators have been loaded."""
    fake = torch.library.register_fake

    def fake_march(rays_o: Tensor, samples) -> tuple[Tensor, Tensor, Tensor]:
        return rays_o.new_empty(samples, 3), rays_o.new_empty(samples, 3), rays_o.new_empty(samples, 2)

    @fake("raymarching::near_far_from_aabb")
    def _(rays_o, rays_d, aabb, min_near):
        return rays_o.new_empty(rays_o.shape[0]), rays_o.new_empty(rays_o.shape[0])

    @fake("raymarching::sph_from_ray")
    def _(rays_o, rays_d, radius):
        return rays_o.new_empty(rays_o.shape[0], 2)

    @fake("raymarching::morton3D")
    def _(coords):
        return coords.new_empty(coords.shape[0])

    @fake("raymarching::morton3D_invert")
    def _(indices):
        return indices.new_empty(indices.shape[0], 3)

    @fake("raymarching::packbits")
    def _(grid, thresh):
        return grid.new_empty(grid.numel() // 8, dtype=torch.uint8)

    @fake("raymarching::flatten_rays")
    def _(packed_info, M):
        return packed_info.new_empty(M)

    @fake("raymarching::march_rays_train")
    def _(rays_o, rays_d, density_bitfield, nears, fars, noises, bound, C, H, dt_gamma, max_steps, rows):
        samples = rows
        if rows is None:
            samples = torch.library.get_ctx().new_dynamic_size()  # known only when the grid has been walked
        return *fake_march(rays_o, samples), rays_o.new_empty(rays_o.shape[0], 2, dtype=torch.int32)

    @fake("raymarching::march_rays")
    def _(alive, rays_t, rays_o, rays_d, bits, nears, fars, noises, bound, C, H, dt_gamma, max_steps, n_step):
        return fake_march(rays_o, alive.shape[0] * n_step)

    @fake("raymarching::composite_rays_train")
    def _(sigmas, rgbs, ts, packed_info, min_transmittance):
        rays = packed_info.shape[0]
        per_ray = [sigmas.new_empty(rays), sigmas.new_empty(rays), sigmas.new_empty(rays, rgbs.shape[1])]
        return sigmas.new_empty(sigmas.shape), *per_ray, sigmas.new_empty(sigmas.shape)

    @fake("raymarching::composite_rays_train_backward")
    def _(grad_weights, grad_opacity, grad_depth, grad_rgb, rgbs, ts, packed_info, weights, transmittance):
        return weights.new_empty(weights.shape), rgbs.new_empty(rgbs.shape)

    @fake("raymarching::composite_rays")
    def _(rays_alive, rays_t, sigmas, rgbs, ts, opacity, depth, image, n_step, min_transmittance):
        return None

    def keep(ctx, inputs, output) -> None:
        _, rgbs, ts, packed_info, _ = inputs
        weights, _, _, _, transmittance = output
        ctx.mark_non_differentiable(transmittance)
        ctx.set_materialize_grads(False)  # an output nobody used costs nothing
        ctx.save_for_backward(rgbs, ts, packed_info, weights, transmittance)

    def backward(ctx, weights, opacity, depth, rgb, _transmittance):
        if weights is None and opacity is None and depth is None and rgb is None:
            return None, None, None, None, None
        gradients = weights, opacity, depth, rgb
        inputs = torch.ops.raymarching.composite_rays_train_backward(*gradients, *ctx.saved_tensors)
        return *inputs, None, None, None

    torch.library.register_autograd("raymarching::composite_rays_train", backward, setup_context=keep)
    extension.differentiable_once("raymarching::composite_rays_train_backward")


extension.when_loaded("raymarching", register)
