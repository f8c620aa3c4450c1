"""A field without a grid: frequency encoding and a residual MLP (NeRF, arXiv:2003.08934), in plain torch.

It needs no compiled extension, and it has no grid artefacts; it is slower than the hash grid to reach the same detail.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freqencoder.reference import freq_encode
from nerf.fields.base import DENSITY_ACTIVATIONS, Field, density_blob, linear, seeded


class ResidualBlock(nn.Module):
    """relu(x + norm(linear(x))). [M, C] -> [M, C]"""

    def __init__(self, width: int, generator: torch.Generator):
        super().__init__()
        self.linear = linear(width, width, generator, bias=False)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu_(x + self.norm(self.linear(x)))


class VanillaField(Field):
    """Frequency encoding -> residual MLP -> density and albedo.

    Args:
        bound: Half the edge of the box, scene units.
        degree: Number of octaves of the encoding; the highest has half a wave per bound * 2^(1 - degree).
        hidden_dim, num_layers: Width, and number of linear layers (first, residual blocks, last).
        density_activation: exp or softplus.
        blob_density, blob_radius: The ball training starts from: its peak before the activation, and the radius
            at which it has fallen to 0, scene units.
        normal_mode: finite or analytic.
        generator: Start values are drawn from it; None: seed 0.

    Raises:
        ValueError: an unknown activation, or fewer than 2 layers.
    """

    def __init__(
        self,
        bound: float = 1.0,
        *,
        degree: int = 6,
        hidden_dim: int = 64,
        num_layers: int = 5,
        density_activation: str = "exp",
        blob_density: float = 5.0,
        blob_radius: float = 0.2,
        normal_mode: str = "finite",
        generator: torch.Generator | None = None,
    ):
        super().__init__(bound, normal_mode)
        if density_activation not in DENSITY_ACTIVATIONS:
            names = ", ".join(DENSITY_ACTIVATIONS)
            raise ValueError(f"unknown density activation '{density_activation}': choose one of {names}")
        if num_layers < 2:
            raise ValueError(f"a vanilla field needs at least 2 layers, got {num_layers}")
        generator = seeded(generator)
        self.activation = DENSITY_ACTIVATIONS[density_activation]
        self.blob_density, self.blob_radius = float(blob_density), float(blob_radius)
        self.degree = degree
        self.first = linear(3 + 6 * degree, hidden_dim, generator)
        self.blocks = nn.Sequential(*(ResidualBlock(hidden_dim, generator) for _ in range(num_layers - 2)))
        self.last = linear(hidden_dim, 4, generator)

    def _raw(self, x: Tensor) -> Tensor:
        encoded = freq_encode(x * (math.pi / self.bound), self.degree)
        used = math.ceil(self.max_level * self.degree)
        if used < self.degree:
            encoded = F.pad(encoded[:, : 3 + 6 * used], (0, 6 * (self.degree - used)))
        return self.last(self.blocks(F.relu_(self.first(encoded)))).float()

    def potential(self, x: Tensor) -> Tensor:
        return self._raw(x)[:, 0] + density_blob(x, self.blob_density, self.blob_radius)

    def density(self, x: Tensor) -> Tensor:
        return self.activation(self.potential(x))

    def query(self, x: Tensor) -> tuple[Tensor, Tensor]:
        raw = self._raw(x)
        sigma = self.activation(raw[:, 0] + density_blob(x, self.blob_density, self.blob_radius))
        return sigma, torch.sigmoid(raw[:, 1:])
