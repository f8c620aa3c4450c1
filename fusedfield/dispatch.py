"""Which arguments the compiled operators take, how they are called, and what autograd needs to know about them."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

import extension
from gridencoder.grid import active_levels

from . import reference

ACTIVATIONS = ("none", "exp", "softplus")  # in the order of csrc/field.h
PAD = 16  # on a CPU the encoding is saved for a whole number of so many samples

Layers = Sequence[tuple[Tensor, Tensor]]


def serves(positions: Tensor, embeddings: Tensor, layers: Layers, mixed: bool = False, rays: bool = False) -> bool:
    """Whether the compiled operators take these arguments; builds them on first use.

    They are made for float32, grids of 3 dimensions and 2 features a level, and give no gradient in the positions.

    - On a CPU: 2 to 8 layers of up to 256 channels; `mixed` asks for AVX-512 BF16.
    - On CUDA, compiled for and on compute capability 8.0 or newer: up to 16 levels, 2 or 3 layers, 32 or 64 channels in
      each between them; samples along rays (`rays`, of field_query_rays) are not served.
    """
    tensors = [positions, embeddings, *(tensor for layer in layers for tensor in layer)]
    device = positions.device
    return (
        device.type in SERVES
        and all(tensor.device == device and tensor.dtype == torch.float32 for tensor in tensors)
        and positions.shape[1] == 3
        and embeddings.shape[1] == 2
        and not (positions.requires_grad and torch.is_grad_enabled())
        and extension.serves("fusedfield", positions)
        and SERVES[device.type](device, [weight.shape[1] for weight, _ in layers], mixed, rays)
    )


def _serves_cpu(device: torch.device, inputs: list[int], mixed: bool, rays: bool) -> bool:
    return 2 <= len(inputs) <= 8 and max(inputs) <= 256 and (not mixed or torch.ops.fusedfield.has_bf16())


def _serves_cuda(device: torch.device, inputs: list[int], mixed: bool, rays: bool) -> bool:
    known = not rays and len(inputs) in (2, 3) and inputs[0] <= 32 and set(inputs[1:]) in ({32}, {64})
    return known and _has_tensor_cores(device)


@functools.cache
def _has_tensor_cores(device: torch.device) -> bool:
    return torch.ops.fusedfield.has_tensor_cores(torch.empty(0, device=device))


SERVES = {"cpu": _serves_cpu, "cuda": _serves_cuda}  # by type of device: layers of so many inputs each


def dispatch(
    name: str,
    samples: Sequence[Tensor | float],
    embeddings: Tensor,
    layers: Layers,
    offsets: Sequence[int],
    resolutions: Sequence[int],
    gridtype: str,
    align_corners: bool,
    interpolation: str,
    max_level: float | None,
    bound: float,
    activation: str,
    blob_density: float,
    blob_radius: float,
    mixed: bool,
    outputs: int,
) -> tuple[Tensor, ...]:
    """What the operator of this name gives for `samples`, positions first; where it does not serve, its reference."""
    positions = samples[0]
    widths = _check(
        name, positions, embeddings, layers, offsets, resolutions, gridtype, interpolation, activation, outputs
    )
    active = active_levels(max_level, len(resolutions))
    hashed, smoothstep = gridtype == "hash", interpolation == "smoothstep"
    if not serves(positions, embeddings, layers, mixed, rays=name == "field_query_rays"):
        return getattr(reference, name)(
            *samples,
            embeddings,
            layers,
            list(offsets),
            list(resolutions),
            hashed=hashed,
            align_corners=align_corners,
            smoothstep=smoothstep,
            active=active,
            bound=bound,
            activation=activation,
            blob_density=blob_density,
            blob_radius=blob_radius,
            mixed=mixed,
            outputs=outputs,
        )
    parameters = torch.cat([tensor.flatten() for layer in layers for tensor in layer])
    return getattr(torch.ops.fusedfield, name)(
        *samples,
        embeddings,
        parameters,
        list(offsets),
        list(resolutions),
        hashed,
        align_corners,
        smoothstep,
        active,
        widths,
        bound,
        blob_density,
        blob_density / blob_radius,
        ACTIVATIONS.index(activation),
        mixed,
        outputs,
        torch.is_grad_enabled() and (embeddings.requires_grad or parameters.requires_grad),
    )


def _check(name, positions, embeddings, layers, offsets, resolutions, gridtype, interpolation, activation, outputs):
    """The widths of the network, once all arguments fit."""
    if positions.ndim != 2 or not positions.is_floating_point():
        raise ValueError(f"{name} needs float positions [N, 3], got {positions.dtype} {list(positions.shape)}")
    if len(offsets) != len(resolutions) + 1 or embeddings.ndim != 2 or embeddings.shape[0] != offsets[-1]:
        raise ValueError(
            f"{name} needs one offset more than its {len(resolutions)} resolutions, and as many embeddings as the "
            f"last says, got offsets {list(offsets)} and embeddings {list(embeddings.shape)}"
        )
    widths = [len(resolutions) * embeddings.shape[1], *(weight.shape[0] for weight, _ in layers)]
    for (weight, bias), inputs in zip(layers, widths, strict=False):
        if weight.shape[1] != inputs or bias.shape != weight.shape[:1]:
            raise ValueError(
                f"{name} needs layers that follow each other from {widths[0]} channels on, got a weight "
                f"{list(weight.shape)} and a bias {list(bias.shape)} for {inputs} channels"
            )
    if widths[-1] != 4 or outputs not in (1, 4):
        raise ValueError(f"{name} has 4 channels and gives 1 or 4, got {widths[-1]} and outputs={outputs}")
    for option, value, known in (
        ("gridtype", gridtype, ("hash", "tiled")),
        ("interpolation", interpolation, ("linear", "smoothstep")),
        ("activation", activation, ACTIVATIONS),
    ):
        if value not in known:
            raise ValueError(f"{option} must be one of {', '.join(known)}, got {value!r}")
    return widths


def _register() -> None:
    def encoding(positions, count, active, mixed, save):
        if positions.device.type == "cuda":
            return positions.new_empty(count * active * (1 if mixed else 2) if save else 0)
        return positions.new_empty((count + PAD - 1) // PAD * PAD * 2 * active if save else 0)

    @torch.library.register_fake("fusedfield::field_query")
    def _(positions, embeddings, parameters, *options):
        active, mixed, outputs, save = options[5], *options[-3:]
        count = positions.shape[0]
        of_samples = positions.new_empty(count), positions.new_empty(count, outputs - 1)
        return *of_samples, encoding(positions, count, active, mixed, save)

    @torch.library.register_fake("fusedfield::field_query_rays")
    def _(positions, lengths, packed_info, limit, embeddings, parameters, *options):
        active, mixed, outputs, save = options[5], *options[-3:]
        count = torch.library.get_ctx().new_dynamic_size()  # known only when the rays have been followed
        kept = positions.new_empty(count, dtype=torch.int64), packed_info.new_empty(packed_info.shape[0])
        of_samples = positions.new_empty(count), positions.new_empty(count, outputs - 1)
        return *of_samples, *kept, encoding(positions, count, active, mixed, save)

    @torch.library.register_fake("fusedfield::field_query_backward")
    def _(sigma_gradient, albedo_gradient, saved, positions, embeddings, parameters, *options):
        return torch.empty_like(embeddings), torch.empty_like(parameters)

    def save(ctx, inputs, output):
        *tensors, ctx.options = *inputs[:3], inputs[3:-1]
        ctx.save_for_backward(output[2], *tensors)
        ctx.mark_non_differentiable(output[2])
        ctx.set_materialize_grads(False)  # of what is saved: zeros of its size

    def save_rays(ctx, inputs, output):
        positions, embeddings, parameters, ctx.options = inputs[0], *inputs[4:6], inputs[6:-1]
        _, _, kept, counts, saved = output
        ctx.save_for_backward(saved, positions, embeddings, parameters, kept)
        ctx.mark_non_differentiable(kept, counts, saved)
        ctx.set_materialize_grads(False)

    def gradients(ctx, sigma_gradient, albedo_gradient, saved, positions, embeddings, parameters):
        if ctx.needs_input_grad[0]:
            raise RuntimeError("field_query has no gradient in the positions: extension.set_mode('torch') has it")
        count, outputs = positions.shape[0], ctx.options[-1]
        if sigma_gradient is None:
            sigma_gradient = positions.new_zeros(count)
        if albedo_gradient is None:
            albedo_gradient = positions.new_zeros(count, outputs - 1)
        given = sigma_gradient, albedo_gradient, saved, positions, embeddings, parameters
        return *torch.ops.fusedfield.field_query_backward(*given, *ctx.options), *[None] * (len(ctx.options) + 1)

    def backward(ctx, sigma_gradient, albedo_gradient, _):
        return None, *gradients(ctx, sigma_gradient, albedo_gradient, *ctx.saved_tensors)

    def backward_rays(ctx, sigma_gradient, albedo_gradient, *_):
        saved, positions, *network, kept = ctx.saved_tensors
        return *[None] * 4, *gradients(
            ctx, sigma_gradient, albedo_gradient, saved, positions.index_select(0, kept), *network
        )

    torch.library.register_autograd("fusedfield::field_query", backward, setup_context=save)
    torch.library.register_autograd("fusedfield::field_query_rays", backward_rays, setup_context=save_rays)
    extension.differentiable_once("fusedfield::field_query_backward")


extension.when_loaded("fusedfield", _register)
