"""The default field: a multiresolution hash grid (Instant-NGP, arXiv:2201.05989) and a small MLP."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import fusedfield
from gridencoder import GridEncoder
from nerf.fields.base import MLP, seeded
from nerf.fields.network import GridField
from nerf.fields.rays import in_blocks


class HashGridField(GridField):
    """Hash grid -> MLP -> density and albedo.

    Args:
        bound: Half the edge of the box, scene units.
        num_levels, level_dim, log2_hashmap_size, base_resolution: Of the grid.
        desired_resolution: Cells per edge of the finest level for a box of bound 1; it grows with the bound.
        interpolation: smoothstep (normals are continuous) or linear (faster).
        hidden_dim, num_layers: Width and number of linear layers of the MLP.
        generator: Start values are drawn from it; None: seed 0.
        options: Of NetworkField.
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
        generator: torch.Generator | None = None,
        **options: Any,
    ):
        super().__init__(bound, **options)
        generator = seeded(generator)
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

    def encode(self, x: Tensor) -> Tensor:
        return self.encoder(x, bound=self.bound, max_level=self.max_level)

    def network(self, encoded: Tensor, outputs: int) -> Tensor:
        return self.mlp(encoded, outputs)

    def evaluate(self, x: Tensor, outputs: int, activation: str, mixed: bool) -> tuple[Tensor, Tensor]:
        """In one operator where there is one for it (`fusedfield.serves`), else the encoder, then the network."""
        operands, options = self._operands()
        if not fusedfield.serves(x, *operands[:2], mixed):
            return super().evaluate(x, outputs, activation, mixed)
        return fusedfield.field_query(x, *operands, **options, activation=activation, mixed=mixed, outputs=outputs)

    def query_rays(
        self, positions: Tensor, lengths: Tensor, packed_info: Tensor, limit: float
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """As of every field, but where there is an operator for it no sample is evaluated twice.

        On a GPU all are, once: where a ray has ended they have no gradient, and the operator leaves them out then.
        """
        operands, options = self._operands()
        if fusedfield.serves(positions, *operands[:2], self.mixed, rays=True):
            options |= {"activation": self.density_activation, "mixed": self.mixed}
            return fusedfield.field_query_rays(positions, lengths, packed_info, limit, *operands, **options)
        if fusedfield.serves(positions, *operands[:2], self.mixed):
            return *in_blocks(self.query, positions), None, None
        return super().query_rays(positions, lengths, packed_info, limit)

    def _operands(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What the operators of fusedfield take behind the samples."""
        grid, layers = self.encoder, [(layer.weight, layer.bias) for layer in self.mlp.layers]
        options = {
            "gridtype": grid.gridtype,
            "align_corners": grid.align_corners,
            "interpolation": grid.interpolation,
            "max_level": self.max_level,
            "bound": self.bound,
            "blob_density": self.blob_density,
            "blob_radius": self.blob_radius,
        }
        return (grid.embeddings, layers, grid.offsets, grid.resolutions), options
