"""What every field shares: activations, the density blob, normals, layers with a seeded start.

Letters in shapes: M points, C channels.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nerf.fields.rays import follow, in_blocks, sift

NORMAL_MODES = ("finite", "analytic")
# Rows a CPU takes through an MLP at once. Larger intermediates come from fresh pages of the system each time:
# 150k rows of 24-64-64-4 forward and backward take 105 ms in one piece and 47 ms in these (2 cores).
CPU_BLOCK = 1 << 14


def seeded(generator: torch.Generator | None) -> torch.Generator:
    """`generator`, or a new one with seed 0: building a module never touches the global generator."""
    return torch.Generator().manual_seed(0) if generator is None else generator


def linear(inputs: int, outputs: int, generator: torch.Generator, bias: bool = True) -> nn.Linear:
    """nn.Linear with torch's own initial distribution, drawn from `generator`."""
    layer = nn.utils.skip_init(nn.Linear, inputs, outputs, bias=bias)
    limit = 1.0 / math.sqrt(inputs)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(-limit, limit, generator=generator)
    return layer


class MLP(nn.Module):
    """`num_layers` linear layers with ReLU between them. [M, inputs] -> [M, outputs]"""

    def __init__(self, inputs: int, outputs: int, hidden_dim: int, num_layers: int, generator: torch.Generator):
        super().__init__()
        if num_layers < 1:
            raise ValueError(f"an MLP needs at least 1 layer, got {num_layers}")
        widths = [inputs] + [hidden_dim] * (num_layers - 1) + [outputs]
        pairs = zip(widths[:-1], widths[1:], strict=True)
        self.layers = nn.ModuleList(linear(i, o, generator) for i, o in pairs)

    def forward(self, x: Tensor, outputs: int | None = None) -> Tensor:
        """Evaluate; `outputs` limits the result to the first so many channels, at their cost."""
        if x.device.type != "cpu" or len(x) <= CPU_BLOCK:
            return self._rows(x, outputs)
        return torch.cat([self._rows(rows, outputs) for rows in x.split(CPU_BLOCK)])

    def _rows(self, x: Tensor, outputs: int | None) -> Tensor:
        for layer in self.layers[:-1]:
            x = F.relu_(layer(x))
        last = self.layers[-1]
        return F.linear(x, last.weight[:outputs], last.bias[:outputs])


class Field(nn.Module):
    """Density and albedo in the box [-bound, bound]^3. Subclasses give `query`, and `density` where it is cheaper.

    Args:
        bound: Half the edge of the box, scene units.
        normal_mode: "finite" (central differences: they smooth) or "analytic" (autograd).
        normal_step: Half the distance of those differences, scene units. What is smaller, cells of a grid for one, does
            not show.
    """

    def __init__(self, bound: float, normal_mode: str = "finite", normal_step: float = 1e-2):
        super().__init__()
        if not bound > 0:
            raise ValueError(f"the bound of a field must be positive, got {bound}")
        if normal_mode not in NORMAL_MODES:
            raise ValueError(f"unknown normal mode '{normal_mode}': choose one of {', '.join(NORMAL_MODES)}")
        if not normal_step > 0:
            raise ValueError(f"the step of finite differences must be positive, got {normal_step}")
        self.bound = float(bound)
        self.normal_mode = normal_mode
        self.normal_step = float(normal_step)
        self.max_level = 1.0

    def query(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Density and albedo. x [M, 3] in the box -> sigma [M] >= 0 in 1/scene unit, albedo [M, 3] in [0, 1]."""
        raise TypeError(f"{type(self).__name__} does not define query()")

    def query_rays(
        self, positions: Tensor, lengths: Tensor, packed_info: Tensor, limit: float
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """`query` of the samples of rays, at least up to where each has ended.

        A ray ends behind the sample with which its optical depth, the sum of sigma times length, passes `limit`. Here
        they are found without gradients, by their density alone where gradients are wanted, which takes another query;
        on a GPU only then: without gradients all samples are evaluated, and nobody is asked.

        Args:
            positions: Samples in the box, one ray after the other. [M, 3]
            lengths: Of the samples, scene units. [M]
            packed_info: First sample and sample count of each ray, int32. [N, 2]
            limit: Optical depth at which a ray ends.

        Returns:
            sigma [K], albedo [K, 3], kept [K]: the samples that were reached, ascending, int64; counts [N]: how many
            each ray has, int32; None and None: all were evaluated.
        """
        find = follow if positions.device.type == "cpu" else sift
        if torch.is_grad_enabled():
            _, kept, counts = find(lambda x: (self.density(x),), positions, lengths, packed_info, limit)
            return *self.query(positions[kept]), kept, counts
        if find is follow:
            return follow(self.query, positions, lengths, packed_info, limit)
        return *in_blocks(self.query, positions), None, None

    def density(self, x: Tensor) -> Tensor:
        """Density alone. x [M, 3] in the box -> sigma [M] >= 0 in 1/scene unit."""
        return self.query(x)[0]

    def potential(self, x: Tensor) -> Tensor:
        """What normals are the gradient of: any increasing function of the density. [M, 3] -> [M]

        A field with an activation gives the value before it: its level sets are the same, and its differences
        neither overflow inside an object nor vanish outside.
        """
        return self.density(x)

    def normal(self, x: Tensor, mode: str | None = None) -> Tensor:
        """Unit vector out of the object, minus the direction in which density grows. [M, 3] -> [M, 3]

        Zero where the density is flat. Differentiable in the parameters of the field when gradients are enabled,
        never in x. mode: "finite" (six queries a point), "analytic" (one and its gradient), None: the field's own.

        Raises:
            ValueError: the mode is none of these.
        """
        mode = mode or self.normal_mode
        if mode == "finite":
            gradient = self._finite_gradient(x.detach())
        elif mode == "analytic":
            gradient = self._analytic_gradient(x.detach())
        else:
            raise ValueError(f"unknown normal mode '{mode}': choose one of {', '.join(NORMAL_MODES)}")
        return -F.normalize(gradient.float(), dim=-1, eps=1e-12)

    def _finite_gradient(self, x: Tensor) -> Tensor:
        steps = self.normal_step * torch.eye(3, device=x.device, dtype=x.dtype)
        steps = torch.cat([steps, -steps])[:, None]  # [6, 1, 3], outermost: each sixth keeps the order along rays
        points = (x + steps).clamp(-self.bound, self.bound)
        values = self.potential(points.view(-1, 3)).view(2, 3, -1)
        width = torch.diagonal((points[:3] - points[3:]), dim1=0, dim2=2)  # [M, 3], less at the border of the box
        return (values[0] - values[1]).t() / width

    def _analytic_gradient(self, x: Tensor) -> Tensor:
        training = torch.is_grad_enabled()
        with torch.enable_grad():
            x = x.requires_grad_()
            value = self.potential(x)
            return torch.autograd.grad(value.sum(), x, create_graph=training)[0]

    def set_max_level(self, level: float) -> None:
        """Use only this share of the frequencies of the encoding, in (0, 1], coarse ones first.

        Raises:
            ValueError: the share is not in (0, 1].
        """
        if not 0 < level <= 1:
            raise ValueError(f"the share of levels must be in (0, 1], got {level}")
        self.max_level = float(level)

    def parameter_groups(self, lr: float) -> list[dict]:
        """Groups for an optimiser: everything at `lr`."""
        return [{"params": list(self.parameters()), "lr": lr, "name": "field"}]
