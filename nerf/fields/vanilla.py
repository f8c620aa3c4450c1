"""A field without a grid: frequency encoding and a residual MLP (NeRF, arXiv:2003.08934), in plain torch.

It needs no compiled extension, and it has no grid artefacts; it is slower than the hash grid to reach the same detail.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freqencoder.reference import freq_encode
from nerf.fields.base import linear, seeded
from nerf.fields.network import NetworkField


class ResidualBlock(nn.Module):
    """relu(x + norm(linear(x))). [M, C] -> [M, C]"""

    def __init__(self, width: int, generator: torch.Generator):
        super().__init__()
        self.linear = linear(width, width, generator, bias=False)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu_(x + self.norm(self.linear(x)))


class VanillaField(NetworkField):
    """Frequency encoding -> residual MLP -> density and albedo.

    Args:
        bound: Half the edge of the box, scene units.
        degree: Number of octaves of the encoding; the highest has half a wave per bound * 2^(1 - degree).
        hidden_dim, num_layers: Width, and number of residual blocks between the first and the last linear layer.
        generator: Start values are drawn from it; None: seed 0.
        options: Of NetworkField.

    Raises:
        ValueError: fewer than 1 layer.
    """

    def __init__(
        self,
        bound: float = 1.0,
        *,
        degree: int = 6,
        hidden_dim: int = 64,
        num_layers: int = 3,
        generator: torch.Generator | None = None,
        **options: Any,
    ):
        super().__init__(bound, **options)
        if num_layers < 1:
            raise ValueError(f"a vanilla field needs at least 1 layer, got {num_layers}")
        generator = seeded(generator)
        self.degree = degree
        self.first = linear(3 + 6 * degree, hidden_dim, generator)
        self.blocks = nn.Sequential(*(ResidualBlock(hidden_dim, generator) for _ in range(num_layers)))
        self.last = linear(hidden_dim, 4, generator)

    def encode(self, x: Tensor) -> Tensor:
        encoded = freq_encode(x * (math.pi / self.bound), self.degree)
        used = math.ceil(self.max_level * self.degree)
        if used < self.degree:
            encoded = F.pad(encoded[:, : 3 + 6 * used], (0, 6 * (self.degree - used)))
        return encoded

    def network(self, encoded: Tensor, outputs: int) -> Tensor:
        hidden = self.blocks(F.relu_(self.first(encoded)))
        return F.linear(hidden, self.last.weight[:outputs], self.last.bias[:outputs])
