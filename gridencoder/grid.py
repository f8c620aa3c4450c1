"""Encodes points by interpolating trainable features on grids of growing resolution."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

import extension

from . import autograd, reference

LEVEL_DIMS = (1, 2, 4, 8)
MAX_LEVELS = 32
TABLE_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
TV_POINTS = 1_000_000  # the number of points at which a total variation weight counts once


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
    `align_corners` at i / (R - 1). A level with more nodes than rows shares rows between nodes, by a hash or by wrapping.

    Differentiable in `inputs` and `embeddings`, and twice: normals taken with `torch.autograd.grad(..., create_graph=True)`
    reach the embeddings. A gradient in `inputs` alone does not pay for that of the embeddings. With linear interpolation the
    gradient in `inputs` jumps from cell to cell; smoothstep makes it continuous. Sums are float32 (float64 where an argument
    is, by the reference), also for 16-bit tables.

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
    active = _active_levels(max_level, num_levels)
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
        # Two nodes in the graph instead of one: autograd runs only those on the way to what it is asked for, so that normals
        # do not compute a gradient of the whole table to throw it away.
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

    The energy is the sum over points, levels and channels of sqrt(1e-9 + sum over axes of (e[p + axis] - e[p])^2), p the
    node to which the point belongs (each node owns 1 / R of an axis). The last node of an axis has no term along it.

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


class GridEncoder(nn.Module):
    """Trainable features on `num_levels` grids: `grid_encode` with its table.

    Args:
        input_dim: Coordinates of a point, D in 2..5.
        num_levels: L in 1..32.
        level_dim: Features of a level, C one of 1, 2, 4, 8.
        per_level_scale: Ratio of the resolutions of neighbouring levels; set by `desired_resolution` where that is given.
        base_resolution: Nodes along an axis of the coarsest level, >= 2.
        log2_hashmap_size: Most rows of a level, as a power of two. Levels with fewer nodes are stored densely.
        desired_resolution: Nodes along an axis of the finest level.
        gridtype, align_corners, interpolation: As for `grid_encode`.
        generator: Source of the initial features, uniform in [-1e-4, 1e-4]. None: a fixed seed.

    Attributes: `embeddings` [P, C], `offsets` [L + 1], `resolutions` [L], `output_dim` L * C.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        input_dim: int = 3,
        num_levels: int = 16,
        level_dim: int = 2,
        per_level_scale: float = 2,
        base_resolution: int = 16,
        log2_hashmap_size: int = 19,
        desired_resolution: int | None = None,
        gridtype: str = "hash",
        align_corners: bool = False,
        interpolation: str = "linear",
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if not 2 <= input_dim <= 5:
            raise ValueError(f"GridEncoder needs 2 to 5 coordinates, got input_dim={input_dim}")
        if not 1 <= num_levels <= MAX_LEVELS or level_dim not in LEVEL_DIMS:
            raise ValueError(
                f"GridEncoder needs 1 to {MAX_LEVELS} levels of 1, 2, 4 or 8 features, got num_levels={num_levels} and "
                f"level_dim={level_dim}"
            )
        if not 3 <= log2_hashmap_size <= 26:
            raise ValueError(f"GridEncoder needs log2_hashmap_size in 3..26, got {log2_hashmap_size}")
        if desired_resolution is not None and num_levels > 1:
            per_level_scale = (desired_resolution / base_resolution) ** (1 / (num_levels - 1))
        if base_resolution < 2 or per_level_scale < 1:
            raise ValueError(
                f"GridEncoder needs base_resolution >= 2 and resolutions that do not fall, got base_resolution="
                f"{base_resolution}, per_level_scale={per_level_scale:g}, desired_resolution={desired_resolution}"
            )
        self.input_dim, self.num_levels, self.level_dim = input_dim, num_levels, level_dim
        self.per_level_scale, self.base_resolution = per_level_scale, base_resolution
        self.gridtype, self.align_corners, self.interpolation = gridtype, align_corners, interpolation
        self.output_dim = num_levels * level_dim
        self.resolutions = level_resolutions(num_levels, per_level_scale, base_resolution)
        self.offsets = [0]
        for resolution in self.resolutions:
            rows = min(resolution**input_dim, 2**log2_hashmap_size)
            self.offsets.append(self.offsets[-1] + math.ceil(rows / 8) * 8)
        generator = generator or torch.Generator().manual_seed(0)
        uniform = torch.rand(self.offsets[-1], level_dim, generator=generator, device=generator.device)
        self.embeddings = nn.Parameter((2 * uniform - 1) * 1e-4)

    def forward(self, x: Tensor, bound: float = 1, max_level: float | None = None) -> Tensor:
        """Encode points in [-bound, bound]; others give zeros. [..., D] -> [..., L * C]"""
        if x.shape[-1] != self.input_dim:
            raise ValueError(f"GridEncoder was made for {self.input_dim} coordinates, got {x.shape[-1]}")
        encoded = grid_encode(
            (x.reshape(-1, self.input_dim) + bound) / (2 * bound),
            self.embeddings,
            self.offsets,
            self.per_level_scale,
            self.base_resolution,
            gridtype=self.gridtype,
            align_corners=self.align_corners,
            interpolation=self.interpolation,
            max_level=max_level,
        )
        return encoded.reshape(*x.shape[:-1], self.output_dim)

    def grad_total_variation(
        self,
        weight: float,
        inputs: Tensor | None = None,
        bound: float = 1,
        B: int = TV_POINTS,
        generator: torch.Generator | None = None,
    ) -> None:
        """Add the gradient of the total variation around points to `embeddings.grad` (see `grid_total_variation_`).

        The strength does not depend on the number of points: it is that of a sum over a million of them.

        Args:
            weight: Factor of the energy.
            inputs: Points in [-bound, bound]; None: B uniform ones drawn from `generator`. [..., D]
        """
        if inputs is None:
            if generator is None:
                raise ValueError("grad_total_variation needs inputs, or a generator to draw them from")
            points = torch.rand(B, self.input_dim, generator=generator, device=generator.device)
            points = points.to(self.embeddings.device)
        else:
            points = (inputs.detach().reshape(-1, self.input_dim) + bound) / (2 * bound)
        if len(points):
            grid_total_variation_(
                self._grad(),
                points,
                self.embeddings.detach(),
                weight * TV_POINTS / len(points),
                self.offsets,
                self.resolutions,
                self.gridtype,
            )

    def grad_weight_decay(self, weight: float) -> None:
        """Add the gradient of weight x sum over levels of the mean squared norm of a row to `embeddings.grad`."""
        grid_weight_decay_(self._grad(), self.embeddings.detach(), weight, self.offsets)

    def extra_repr(self) -> str:
        return (
            f"{self.gridtype}, {self.num_levels} levels of {self.level_dim} features, resolution {self.resolutions[0]} to "
            f"{self.resolutions[-1]}, {self.embeddings.shape[0]} rows, {self.interpolation}"
        )

    def _grad(self) -> Tensor:
        if self.embeddings.grad is None:
            self.embeddings.grad = torch.zeros_like(self.embeddings)
        return self.embeddings.grad


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
    return extension.serves("gridencoder", inputs)


def _accumulate(gradient: Tensor, add) -> None:
    """Call add(total) with `gradient`, or with a float32 sum that is added to it afterwards."""
    if gradient.dtype == torch.float32 and gradient.is_contiguous():
        add(gradient)
    else:
        total = torch.zeros(gradient.shape, device=gradient.device)
        add(total)
        gradient.add_(total)


def _active_levels(max_level: float | None, num_levels: int) -> int:
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
