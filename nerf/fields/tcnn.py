"""The hash grid and the small MLP of tiny-cuda-nn (https://github.com/NVlabs/tiny-cuda-nn), on a GPU."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nerf.fields.base import seeded
from nerf.fields.network import GridField


class TcnnField(GridField):
    """Hash grid -> fully fused MLP -> density and albedo: `HashGridField` on the kernels of tiny-cuda-nn.

    It differs in three things: no layer has a bias (features that pad the grid's to a multiple of 16 are 1); the
    network computes in fp16, and scales its gradients itself; it has no second derivative, so that analytic normals
    cannot be trained. The grid is fp32.

    Args:
        bound: Half the edge of the box, scene units.
        num_levels, level_dim, log2_hashmap_size, base_resolution: Of the grid.
        desired_resolution: Cells per edge of the finest level for a box of bound 1; it grows with the bound.
        hidden_dim: 16, 32, 64 or 128.
        num_layers: Number of linear layers of the MLP, 2 or more.
        generator: Start values follow from a number drawn from it; None: seed 0.
        options: Of NetworkField.

    Raises:
        ModuleNotFoundError: tiny-cuda-nn is not installed.
        ValueError: It finds no GPU that it was built for; analytic normals.
        RuntimeError: Of tiny-cuda-nn, for a network that it has not.
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
        hidden_dim: int = 64,
        num_layers: int = 3,
        generator: torch.Generator | None = None,
        **options: Any,
    ):
        super().__init__(bound, **options)
        if self.normal_mode == "analytic":
            raise ValueError("a fully fused MLP has no second derivative for analytic normals: use finite ones")
        try:
            import tinycudann as tcnn
        except OSError as error:  # what it raises without a GPU, or where it was built for another one
            raise ValueError(f"tiny-cuda-nn cannot be used ({error}): --backbone grid needs none") from None
        growth = math.log(round(desired_resolution * bound) / base_resolution) / max(num_levels - 1, 1)
        grid = {
            "otype": "HashGrid",
            "n_levels": num_levels,
            "n_features_per_level": level_dim,
            "log2_hashmap_size": log2_hashmap_size,
            "base_resolution": base_resolution,
            "per_level_scale": math.exp(growth),
            "interpolation": "Smoothstep",
        }
        network = {
            "otype": "FullyFusedMLP",
            "activation": "ReLU",
            "output_activation": "None",
            "n_neurons": hidden_dim,
            "n_hidden_layers": num_layers - 1,
        }
        seeds = torch.randint(2**31, (2,), generator=seeded(generator)).tolist()
        self.encoder = tcnn.Encoding(3, grid, seed=seeds[0], dtype=torch.float32)
        self.mlp = tcnn.Network(num_levels * level_dim, 4, network, seed=seeds[1])
        for module in (self.encoder, self.mlp):
            module.jit_fusion = tcnn.supports_jit_fusion()
        self.num_levels = num_levels

    def encode(self, x: Tensor) -> Tensor:
        encoded = _rows(self.encoder, x / (2 * self.bound) + 0.5)
        used = math.ceil(self.max_level * self.num_levels) * encoded.shape[1] // self.num_levels
        if used < encoded.shape[1]:
            encoded = encoded * (torch.arange(encoded.shape[1], device=x.device) < used)
        return encoded

    def network(self, encoded: Tensor, outputs: int) -> Tensor:
        return _rows(self.mlp, encoded)[:, :outputs]


def _rows(module: nn.Module, x: Tensor) -> Tensor:
    """Evaluate rows; none, too, for which there is no kernel launch. [M, C] -> [M, outputs]"""
    return module(x if len(x) else F.pad(x, (0, 0, 0, 1)))[: len(x)]
