"""Encodes points by interpolating trainable features on grids of growing resolution."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

import extension

from . import autograd, reference

LEVEL_DIMS = (1, 2, 4, 8)
MAX_LEVELS = 32
TABLE_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def level_resolutions(num_levels: int, per_level_scale: float, base_resolution: int) -> list[int]:
    """Nodes along an axis of each level: ceil(base_resolution per_level_scale^l) (Instant-NGP, eq. 2)."""
    # The factor keeps a resolution that is whole up to rounding from being raised to the next.
    return [math.ceil(base_resolution * per_level_scale**level * (1 - 1e-9)) for level in range(num_levels)]


def grid_encode(
    inputs: Tensor,
    embeddings: Tensor,
    offsets: Sequence[int] | Tensor,
    per_level_scale: float,
    base_resolution: int,
    *,
    gridtype: str = "hash",
    align_corners: bool = False,
    interpolation: str = "linear",
    max_level: float | None = None,
) -> Tensor:
    """Interpolate the features of a multiresolution grid at points (Instant-NGP, arXiv:2201.05989, section 3).

    A level of R nodes an axis has them at (i + 0.5) / R, and the value of the outermost nodes beyond them; with
    `align_corners` at i / (R - 1). A level with more nodes than rows shares rows between nodes, by a hash or by
    wrapping.

    Differentiable twice in `inputs` and `embeddings`: normals from `torch.autograd.grad(..., create_graph=True)` reach
    the embeddings. A gradient in `inputs` alone does not pay for that of the embeddings. With linear interpolation the
    gradient in `inputs` jumps from cell to cell; smoothstep makes it continuous. Sums are float32 (float64 where an
    argument is, by the reference), also for 16-bit tables.

    Args:
        inputs: Points in [0, 1]; one with a coordinate outside (or NaN) gives zeros and no gradient. [N, D], D in 2..5
        embeddings: The rows of all levels, float32, float16 or bfloat16. [P, C], C one of 1, 2, 4, 8
        offsets: First row of each level, and P. [L + 1]
        per_level_scale: Ratio of the resolutions of neighbouring levels, >= 1.
        base_resolution: Nodes along an axis of the first level, >= 2.
        gridtype: "hash" or "tiled": how nodes share rows.
        align_corners: Put the outermost nodes on the border instead of half a spacing inside.
        interpolation: "linear", or "smoothstep": t^2 (3 - 2 t) in place of t.
        max_level: Share of the levels to evaluate in (0, 1], rounded up; the others give zeros. None: all.

    Returns:
        Features, level after level, float32. [N, L * C]

    Raises:
        ValueError: an argument is out of its range, or shapes disagree.
    """
    offsets = _check_levels(offsets, embeddings, inputs, gridtype)
    num_levels = len(offsets) - 1
    if per_level_scale < 1 or base_resolution < 2:
        raise ValueError(
            "grid_encode needs per_level_scale >= 1 and base_resolution >= 2, got "
            f"{per_level_scale} and {base_resolution}"
        )
    if interpolation not in ("linear", "smoothstep"):
        raise ValueError(f"interpolation must be linear or smoothstep, got {interpolation!r}")
    resolutions = level_resolutions(num_levels, per_level_scale, base_resolution)
    active = active_levels(max_level, num_levels)
    hashed, smoothstep = gridtype == "hash", interpolation == "smoothstep"
    if not _native(inputs, embeddings):
        return reference.grid_encode(
            inputs,
            embeddings,
            offsets,
            resolutions,
            hashed=hashed,
            align_corners=align_corners,
            smoothstep=smoothstep,
            active=active,
        )
    layout = (offsets, resolutions, hashed, align_corners, smoothstep, active)
    inputs = inputs.float()
    if torch.is_grad_enabled() and inputs.requires_grad and embeddings.requires_grad:
        # Two nodes in the graph instead of one: autograd runs only those on the way to what it is asked for, so that
        # normals do not compute a gradient of the whole table to throw it away.
        encoded = torch.ops.gridencoder.grid_encode(inputs.detach(), embeddings, None, *layout)
        return _InputPath.apply(encoded, inputs, embeddings, layout)
    return torch.ops.gridencoder.grid_encode(inputs, embeddings, None, *layout)


def grid_total_variation_(
    gradient: Tensor,
    inputs: Tensor,
    embeddings: Tensor,
    weight: float,
    offsets: Sequence[int] | Tensor,
    resolutions: Sequence[int],
    gridtype: str = "hash",
) -> None:
    """Add the exact gradient of weight x total variation to `gradient`, in place.

    The energy is the sum over points, levels and channels of sqrt(1e-9 + sum over axes of (e[p + axis] - e[p])^2), p
    the node to which the point belongs (each node owns 1 / R of an axis). The last node of an axis has no term there.

    Args:
        gradient: Gradient of the embeddings. [P, C]
        inputs: Points in [0, 1]; those outside are left out. [N, D]
        embeddings, offsets, gridtype: As for `grid_encode`.
        weight: Factor.
        resolutions: Nodes along an axis of each level. [L]
    """
    offsets, resolutions = _check_levels(offsets, embeddings, inputs, gridtype), list(resolutions)
    hashed = gridtype == "hash"
    with torch.no_grad():
        if _native(inputs, embeddings):
            _accumulate(
                gradient,
                lambda total: torch.ops.gridencoder.grid_total_variation_gradient_(
                    total, inputs.float(), embeddings, weight, offsets, resolutions, hashed
                ),
            )
            return
    table = embeddings.detach().requires_grad_()
    with torch.enable_grad():
        energy = weight * reference.grid_total_variation(inputs.detach(), table, offsets, resolutions, hashed=hashed)
    gradient.add_(torch.autograd.grad(energy, table)[0])


def grid_weight_decay_(gradient: Tensor, embeddings: Tensor, weight: float, offsets: Sequence[int] | Tensor) -> None:
    """Add the gradient of weight x sum over levels of the mean squared norm of a row to `gradient` [P, C], in place."""
    offsets = _check_levels(offsets, embeddings)
    with torch.no_grad():
        if _native(embeddings, embeddings):
            _accumulate(
                gradient,
                lambda total: torch.ops.gridencoder.grid_weight_decay_gradient_(total, embeddings, weight, offsets),
            )
            return
    table = embeddings.detach().requires_grad_()
    with torch.enable_grad():
        energy = weight * reference.grid_weight_decay(table, offsets)
    gradient.add_(torch.autograd.grad(energy, table)[0])


class _InputPath(torch.autograd.Function):
    """The identity on the encoding, whose backward adds the gradient in the inputs."""

    @staticmethod
    def forward(ctx, encoded, inputs, embeddings, layout):
        ctx.save_for_backward(inputs, embeddings)
        ctx.layout = layout
        return encoded.view_as(encoded)

    @staticmethod
    def backward(ctx, gradient):
        inputs, embeddings = ctx.saved_tensors
        slope = torch.ops.gridencoder.grid_input_gradient(gradient, inputs, embeddings, None, *ctx.layout)
        return gradient, slope, None, None


def _native(inputs: Tensor, embeddings: Tensor) -> bool:
    """Whether the compiled operators serve these tensors; builds them on first use."""
    if inputs.dtype == torch.float64 or embeddings.dtype not in TABLE_DTYPES:
        return False
    return extension.serves("gridencoder", inputs, embeddings)


def _accumulate(gradient: Tensor, add) -> None:
    """Call add(total) with `gradient`, or with a float32 sum that is added to it afterwards."""
    if gradient.dtype == torch.float32 and gradient.is_contiguous():
        add(gradient)
    else:
        total = torch.zeros(gradient.shape, device=gradient.device)
        add(total)
        gradient.add_(total)


def active_levels(max_level: float | None, num_levels: int) -> int:
    """How many levels the share `max_level` of them is, rounded up; None: all. Raises ValueError outside (0, 1]."""
    if max_level is None:
        return num_levels
    if not 0 < max_level <= 1:
        raise ValueError(f"max_level needs a share of the levels in (0, 1], got {max_level}")
    return min(num_levels, math.ceil(max_level * num_levels - 1e-6))


def _check_levels(
    offsets: Sequence[int] | Tensor, embeddings: Tensor, inputs: Tensor | None = None, gridtype: str = "hash"
) -> list[int]:
    """The offsets as ints, once they fit the rest."""
    offsets = [int(offset) for offset in (offsets.tolist() if isinstance(offsets, Tensor) else offsets)]
    if gridtype not in ("hash", "tiled"):
        raise ValueError(f"gridtype must be hash or tiled, got {gridtype!r}")
    if not 2 <= len(offsets) <= MAX_LEVELS + 1 or offsets[0] != 0 or sorted(set(offsets)) != offsets:
        raise ValueError(f"offsets must rise from 0 over 1 to {MAX_LEVELS} levels, got {offsets}")
    if embeddings.ndim != 2 or embeddings.shape[0] != offsets[-1] or embeddings.shape[1] not in LEVEL_DIMS:
        raise ValueError(
            f"embeddings must be [{offsets[-1]}, 1, 2, 4 or 8] as offsets say, got {list(embeddings.shape)}"
        )
    if inputs is not None and (inputs.ndim != 2 or not 2 <= inputs.shape[1] <= 5 or not inputs.is_floating_point()):
        raise ValueError(f"inputs must be float [N, 2..5], got {inputs.dtype} {list(inputs.shape)}")
    return offsets


extension.when_loaded("gridencoder", autograd.register)
