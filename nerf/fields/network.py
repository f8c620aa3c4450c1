"""What fields made of an encoding and a network share: activations, the blob, and precision."""

from __future__ import annotations

import torch
from torch import Tensor

from fusedfield.reference import ACTIVATIONS, density_blob
from nerf.fields.base import Field

DENSITY_ACTIVATIONS = ("exp", "softplus")
PRECISIONS = ("fp32", "bf16")  # not fp16: without scaling the loss its gradients vanish


class NetworkField(Field):
    """Encoding -> network -> density and albedo. Subclasses give `encode` and `network`.

    Args:
        bound: Half the edge of the box, scene units.
        density_activation: exp or softplus.
        blob_density, blob_radius: The ball training starts from: its peak before the activation, and the radius
            at which it has fallen to 0, scene units.
        normal_mode, normal_step: Of Field.
        precision: fp32 or bf16 of the network; bf16 halves its time on CPUs that have it. The encoding, the activations
            and normals are always fp32: the differences normals are made of drown in bf16 rounding.

    Raises:
        ValueError: an unknown activation or precision.
    """

    def __init__(
        self,
        bound: float = 1.0,
        *,
        density_activation: str = "exp",
        blob_density: float = 5.0,
        blob_radius: float = 0.2,
        normal_mode: str = "finite",
        normal_step: float = 1e-2,
        precision: str = "fp32",
    ):
        super().__init__(bound, normal_mode, normal_step)
        if density_activation not in DENSITY_ACTIVATIONS:
            names = ", ".join(DENSITY_ACTIVATIONS)
            raise ValueError(f"unknown density activation '{density_activation}': choose one of {names}")
        if precision not in PRECISIONS:
            raise ValueError(f"unknown precision '{precision}': choose one of {', '.join(PRECISIONS)}")
        self.density_activation = density_activation
        self.blob_density, self.blob_radius = float(blob_density), float(blob_radius)
        self.mixed = precision == "bf16"

    def encode(self, x: Tensor) -> Tensor:
        """What the network reads, up to `max_level`. [M, 3] -> [M, C]"""
        raise TypeError(f"{type(self).__name__} does not define encode()")

    def network(self, encoded: Tensor, outputs: int) -> Tensor:
        """The first `outputs` channels: density before blob and activation, then albedo. [M, C] -> [M, outputs]"""
        raise TypeError(f"{type(self).__name__} does not define network()")

    def evaluate(self, x: Tensor, outputs: int, activation: str, mixed: bool) -> tuple[Tensor, Tensor]:
        """Density and the rest of the first `outputs` channels, activated. [M, 3] -> [M], [M, outputs - 1]

        activation: of the density, or none. mixed: the network in bf16.
        """
        encoded = self.encode(x)
        with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=mixed):
            raw = self.network(encoded, outputs).float()
        value = raw[:, 0] + density_blob(x, self.blob_density, self.blob_radius)
        return ACTIVATIONS[activation](value), torch.sigmoid(raw[:, 1:])

    def potential(self, x: Tensor) -> Tensor:
        return self.evaluate(x, 1, "none", mixed=False)[0]

    def density(self, x: Tensor) -> Tensor:
        return self.evaluate(x, 1, self.density_activation, self.mixed)[0]

    def query(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.evaluate(x, 4, self.density_activation, self.mixed)


class GridField(NetworkField):
    """A NetworkField whose encoding is a trained grid: the module `encoder`, which a subclass makes."""

    def parameter_groups(self, lr: float) -> list[dict]:
        """Groups for an optimiser: the grid at ten times `lr`, the network at `lr`."""
        grid = list(self.encoder.parameters())
        known = {id(parameter) for parameter in grid}
        rest = [parameter for parameter in self.parameters() if id(parameter) not in known]
        return [{"params": grid, "lr": lr * 10, "name": "encoder"}, {"params": rest, "lr": lr, "name": "network"}]
