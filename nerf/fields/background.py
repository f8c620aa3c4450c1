"""The colour of the far world, by direction."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nerf.encoding import get_encoder
from nerf.fields.base import MLP, seeded


class BackgroundNetwork(nn.Module):
    """Direction -> colour: encoding, MLP, sigmoid.

    Args:
        encoding: frequency or spherical_harmonics (nerf/encoding.py).
        degree: Of the encoding.
        hidden_dim, num_layers: Width and number of linear layers of the MLP.
        generator: Start values are drawn from it; None: seed 0.
    """

    def __init__(
        self,
        *,
        encoding: str = "frequency",
        degree: int = 4,
        hidden_dim: int = 32,
        num_layers: int = 2,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        self.encoder, width = get_encoder(encoding, input_dim=3, degree=degree)
        self.mlp = MLP(width, 3, hidden_dim, num_layers, seeded(generator))

    def forward(self, directions: Tensor) -> Tensor:
        """Unit directions [N, 3] -> colour [N, 3] in (0, 1)."""
        return torch.sigmoid(self.mlp(self.encoder(directions)).float())

    def parameter_groups(self, lr: float) -> list[dict]:
        """Groups for an optimiser: everything at `lr`."""
        return [{"params": list(self.parameters()), "lr": lr, "name": "background"}]
