"""The default field: a multiresolution hash grid (Instant-NGP, arXiv:2201.05989) and a small MLP."""

from __future__ import annotations

import torch
from torch import Tensor

from gridencoder import GridEncoder
from nerf.fields.base import DENSITY_ACTIVATIONS, MLP, Field, density_blob, seeded, split_groups

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class HashGridField(Field):
    """Hash grid -> MLP -> density and albedo.

    Args:
        bound: Half the edge of the box, scene units.
        num_levels, level_dim, log2_hashmap_size, base_resolution: Of the grid.
        desired_resolution: Cells per edge of the finest level for a box of bound 1; it grows with the bound.
        interpolation: smoothstep (normals are continuous) or linear (faster).
        hidden_dim, num_layers: Width and number of linear layers of the MLP.
        density_activation: exp or softplus.
        blob_density, blob_radius: The ball training starts from: its peak before the activation, and the radius
            at which it has fallen to 0, scene units.
        normal_mode: finite or analytic.
        precision: fp32, bf16 or fp16 of the MLP; bf16 halves its time on CPUs that have it. The grid, the activations
            and normals are always fp32: the differences normals are made of drown in bf16 rounding.
        generator: Start values are drawn from it; None: seed 0.

    Raises:
        ValueError: an unknown activation or precision.
    """

    def __init__(
        self,
        bound: float = 1.0,
        *,
        num_levels: int = 16,
        level_dim: int = 2,
        log2_hashmap_size: int = 19,
        base_resolution: int = 16,
        desired_resolution: int = 2048,
        interpolation: str = "smoothstep",
        hidden_dim: int = 64,
        num_layers: int = 3,
        density_activation: str = "exp",
        blob_density: float = 5.0,
        blob_radius: float = 0.2,
        normal_mode: str = "finite",
        precision: str = "fp32",
        generator: torch.Generator | None = None,
    ):
        super().__init__(bound, normal_mode)
        if density_activation not in DENSITY_ACTIVATIONS:
            names = ", ".join(DENSITY_ACTIVATIONS)
            raise ValueError(f"unknown density activation '{density_activation}': choose one of {names}")
        if precision not in PRECISIONS:
            raise ValueError(f"unknown precision '{precision}': choose one of {', '.join(PRECISIONS)}")
        generator = seeded(generator)
        self.activation = DENSITY_ACTIVATIONS[density_activation]
        self.blob_density, self.blob_radius = float(blob_density), float(blob_radius)
        self.dtype = PRECISIONS[precision]
        self.encoder = GridEncoder(
            input_dim=3,
            num_levels=num_levels,
            level_dim=level_dim,
            base_resolution=base_resolution,
            log2_hashmap_size=log2_hashmap_size,
            desired_resolution=round(desired_resolution * bound),
            interpolation=interpolation,
            generator=generator,
        )
        self.mlp = MLP(self.encoder.output_dim, 4, hidden_dim, num_layers, generator)

    def _raw(self, x: Tensor, outputs: int, dtype: torch.dtype) -> Tensor:
        """The first `outputs` channels of the MLP: density before blob and activation, then albedo. [M, outputs]"""
        encoded = self.encoder(x, bound=self.bound, max_level=self.max_level)
        mixed = dtype != torch.float32
        with torch.autocast(x.device.type, dtype=dtype if mixed else torch.bfloat16, enabled=mixed):
            return self.mlp(encoded, outputs).float()

    def _blob(self, x: Tensor) -> Tensor:
        return density_blob(x, self.blob_density, self.blob_radius)

    def potential(self, x: Tensor) -> Tensor:
        return self._raw(x, 1, torch.float32)[:, 0] + self._blob(x)

    def density(self, x: Tensor) -> Tensor:
        return self.activation(self._raw(x, 1, self.dtype)[:, 0] + self._blob(x))

    def query(self, x: Tensor) -> tuple[Tensor, Tensor]:
        raw = self._raw(x, 4, self.dtype)
        return self.activation(raw[:, 0] + self._blob(x)), torch.sigmoid(raw[:, 1:])

    def parameter_groups(self, lr: float) -> list[dict]:
        """Groups for an optimiser: the grid at ten times `lr`, the MLP at `lr`."""
        return split_groups(self, self.encoder.parameters(), lr)
