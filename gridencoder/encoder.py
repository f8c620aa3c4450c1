"""The grid encoding as a module that owns its table."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .grid import LEVEL_DIMS, MAX_LEVELS, grid_encode, grid_total_variation_, grid_weight_decay_, level_resolutions

TV_POINTS = 1_000_000  # the number of points at which a total variation weight counts once


class GridEncoder(nn.Module):
    """Trainable features on `num_levels` grids: `grid_encode` with its table.

    Args:
        input_dim: Coordinates of a point, D in 2..5.
        num_levels: L in 1..32.
        level_dim: Features of a level, C one of 1, 2, 4, 8.
        per_level_scale: Ratio of the resolutions of neighbouring levels; `desired_resolution` replaces it where given.
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
            f"{self.gridtype}, {self.num_levels} levels of {self.level_dim} features, resolution {self.resolutions[0]} "
            f"to {self.resolutions[-1]}, {self.embeddings.shape[0]} rows, {self.interpolation}"
        )

    def _grad(self) -> Tensor:
        if self.embeddings.grad is None:
            self.embeddings.grad = torch.zeros_like(self.embeddings)
        return self.embeddings.grad
