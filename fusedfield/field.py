"""Density and albedo of a hash-grid field at points, by one operator."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

import extension
from gridencoder.grid import active_levels

from . import reference

ACTIVATIONS = ("none", "exp", "softplus")  # in the order of csrc/field.h
MAX_LAYERS, MAX_WIDTH = 8, 256
PAD = 16  # the encoding is saved for a whole number of so many samples

Layers = Sequence[tuple[Tensor, Tensor]]


def serves(positions: Tensor, embeddings: Tensor, layers: Layers) -> bool:
    """Whether the compiled operator takes these arguments of `field_query`; builds it on first use.

    It is made for CPUs, float32, grids of 3 dimensions and 2 features a level, 2 to 8 layers of up to 256 channels,
    and gives no gradient in the positions.
    """
    tensors = [positions, embeddings, *(tensor for layer in layers for tensor in layer)]
    return (
        all(tensor.device.type == "cpu" and tensor.dtype == torch.float32 for tensor in tensors)
        and positions.shape[1] == 3
        and embeddings.shape[1] == 2
        and 2 <= len(layers) <= MAX_LAYERS
        and all(max(weight.shape) <= MAX_WIDTH for weight, _ in layers)
        and not (positions.requires_grad and torch.is_grad_enabled())
        and extension.serves("fusedfield", positions)
    )


def field_query(
    positions: Tensor,
    embeddings: Tensor,
    layers: Layers,
    offsets: Sequence[int],
    resolutions: Sequence[int],
    *,
    gridtype: str = "hash",
    align_corners: bool = False,
    interpolation: str = "linear",
    max_level: float | None = None,
    bound: float = 1.0,
    activation: str = "exp",
    blob_density: float = 0.0,
    blob_radius: float = 1.0,
    outputs: int = 4,
) -> tuple[Tensor, Tensor]:
    """Encode points on a grid (Instant-NGP, arXiv:2201.05989), take them through an MLP, and activate its channels.

    sigma = activation(channel 0 + blob), albedo = sigmoid(channels 1..3), where the blob (DreamFusion,
    arXiv:2209.14988) is `blob_density` at the origin and falls linearly to 0 at distance `blob_radius`. Differentiable
    once in `embeddings` and `layers`; where the operator does not serve (see `serves`), the reference does, which is
    differentiable in all tensors and any number of times. Results do not depend on the number of threads.

    Args:
        positions: Points in [-bound, bound]; others encode to zeros. [N, 3]
        embeddings, gridtype, align_corners, interpolation, max_level: As for `gridencoder.grid_encode`. [P, C]
        layers: Weight [outputs, inputs] and bias [outputs] of linear layers, from L * C channels to 4; ReLU between.
        offsets: First row of each level, and P. [L + 1]
        resolutions: Nodes along an axis of each level. [L]
        bound: Half the edge of the box.
        activation: none; exp, of 15 at most, with the gradient of exp(15) beyond; or softplus.
        outputs: 4, or 1: density alone, at its cost.

    Returns:
        sigma [N], albedo [N, outputs - 1].

    Raises:
        ValueError: an argument is out of its range, or shapes disagree.
    """
    widths = _check(positions, embeddings, layers, offsets, resolutions, gridtype, interpolation, activation, outputs)
    active = active_levels(max_level, len(resolutions))
    hashed, smoothstep = gridtype == "hash", interpolation == "smoothstep"
    if not serves(positions, embeddings, layers):
        return reference.field_query(
            positions,
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
            outputs=outputs,
        )
    parameters = torch.cat([tensor.flatten() for layer in layers for tensor in layer])
    sigma, albedo, _ = torch.ops.fusedfield.field_query(
        positions,
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
        outputs,
        torch.is_grad_enabled() and (embeddings.requires_grad or parameters.requires_grad),
    )
    return sigma, albedo


def _check(positions, embeddings, layers, offsets, resolutions, gridtype, interpolation, activation, outputs):
    """The widths of the network, once all arguments fit."""
    if positions.ndim != 2 or not positions.is_floating_point():
        raise ValueError(f"field_query needs float positions [N, 3], got {positions.dtype} {list(positions.shape)}")
    if len(offsets) != len(resolutions) + 1 or embeddings.ndim != 2 or embeddings.shape[0] != offsets[-1]:
        raise ValueError(
            f"field_query needs one offset more than its {len(resolutions)} resolutions, and as many embeddings as the "
            f"last says, got offsets {list(offsets)} and embeddings {list(embeddings.shape)}"
        )
    widths = [len(resolutions) * embeddings.shape[1], *(weight.shape[0] for weight, _ in layers)]
    for (weight, bias), inputs in zip(layers, widths, strict=False):
        if weight.shape[1] != inputs or bias.shape != weight.shape[:1]:
            raise ValueError(
                f"field_query needs layers that follow each other from {widths[0]} channels on, got a weight "
                f"{list(weight.shape)} and a bias {list(bias.shape)} for {inputs} channels"
            )
    if widths[-1] != 4 or outputs not in (1, 4):
        raise ValueError(f"field_query has 4 channels and gives 1 or 4, got {widths[-1]} and outputs={outputs}")
    for name, value, known in (
        ("gridtype", gridtype, ("hash", "tiled")),
        ("interpolation", interpolation, ("linear", "smoothstep")),
        ("activation", activation, ACTIVATIONS),
    ):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
    return widths


def _register() -> None:
    @torch.library.register_fake("fusedfield::field_query")
    def _(positions, embeddings, parameters, offsets, resolutions, hashed, align_corners, smoothstep, active, *options):
        outputs, save = options[-2:]
        count = positions.shape[0]
        return (
            positions.new_empty(count),
            positions.new_empty(count, outputs - 1),
            positions.new_empty((count + PAD - 1) // PAD * PAD * 2 * active if save else 0),
        )

    @torch.library.register_fake("fusedfield::field_query_backward")
    def _(sigma_gradient, albedo_gradient, saved, positions, embeddings, parameters, *options):
        return torch.empty_like(embeddings), torch.empty_like(parameters)

    def save(ctx, inputs, output):
        *tensors, ctx.options = *inputs[:3], inputs[3:-1]
        ctx.save_for_backward(output[2], *tensors)
        ctx.mark_non_differentiable(output[2])

    def backward(ctx, sigma_gradient, albedo_gradient, _):
        if ctx.needs_input_grad[0]:
            raise RuntimeError("field_query has no gradient in the positions: extension.set_mode('torch') has it")
        table, flat = torch.ops.fusedfield.field_query_backward(
            sigma_gradient, albedo_gradient, *ctx.saved_tensors, *ctx.options
        )
        return None, table, flat, *[None] * (len(ctx.options) + 1)

    def twice(ctx, *gradients):
        raise RuntimeError("field_query has one derivative, a second was asked for: extension.set_mode('torch') has it")

    torch.library.register_autograd("fusedfield::field_query", backward, setup_context=save)
    torch.library.register_autograd("fusedfield::field_query_backward", twice)


extension.when_loaded("fusedfield", _register)
