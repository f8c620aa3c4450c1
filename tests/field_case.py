"""A small hash-grid field for the tests of fusedfield: the operators, their references, and derivatives of both."""

import itertools

import torch

import cases
import fusedfield
from fusedfield import reference
from gridencoder.grid import active_levels, level_resolutions

# Relative to the largest value: sums of up to 64 products, 3 layers and 300 points in float32, in another order.
TOLERANCE = 5e-6


class Case:
    """A field on a grid from 4 to 4 * 1.5^(levels - 1) nodes an axis, dense and shared rows, features of order 1."""

    def __init__(
        self, levels=8, hidden=(64, 64), gridtype="hash", interpolation="smoothstep", rows=512, channels=2, mixed=False
    ):
        self.resolutions = level_resolutions(levels, 1.5, 4)
        self.offsets = [0, *itertools.accumulate(min(r**3, rows) for r in self.resolutions)]
        self.table = 2 * cases.points(self.offsets[-1], channels, seed=7) - 1
        self.layers = cases.linear_layers(channels * levels, *hidden, 4)
        self.grid = {"gridtype": gridtype, "interpolation": interpolation}
        self.options = {"bound": 1.5, "activation": "exp", "blob_density": 2.0, "blob_radius": 0.5, "outputs": 4}
        self.options["mixed"] = mixed

    def to(self, device):
        self.table = self.table.to(device)
        self.layers = [tuple(tensor.to(device) for tensor in layer) for layer in self.layers]
        return self

    def query(self, x, table, layers, *, max_level=None, **options):
        options = self.options | options
        return fusedfield.field_query(
            x, table, layers, self.offsets, self.resolutions, max_level=max_level, **self.grid, **options
        )

    def query_rays(self, x, lengths, packed_info, limit, table, layers, *, max_level=None, **options):
        options = self.options | options
        del options["outputs"]
        place = (x, lengths, packed_info, limit, table, layers, self.offsets, self.resolutions)
        return fusedfield.field_query_rays(*place, max_level=max_level, **self.grid, **options)

    def reference(self, x, table, layers, **options):
        return reference.field_query(x, table, layers, self.offsets, self.resolutions, **self.resolved(**options))

    def reference_rays(self, x, lengths, packed_info, limit, table, layers, **options):
        place = (x, lengths, packed_info, limit, table, layers, self.offsets, self.resolutions)
        return reference.field_query_rays(*place, **self.resolved(**options))

    def resolved(self, *, max_level=None, **options):
        return (
            self.options
            | options
            | {
                "hashed": self.grid["gridtype"] == "hash",
                "align_corners": False,
                "smoothstep": self.grid["interpolation"] == "smoothstep",
                "active": active_levels(max_level, len(self.resolutions)),
            }
        )

    def derivatives(self, function, x, dtype=torch.float32, reached=None, **options):
        """sigma, albedo, and the gradients of the table, weights and biases for random cotangents.

        reached: Which samples have one that is not 0; None: all. bool [N]
        """
        table, *flat = [
            tensor.to(dtype).requires_grad_() for tensor in (self.table, *itertools.chain.from_iterable(self.layers))
        ]
        outputs = function(x.to(dtype), table, list(zip(flat[::2], flat[1::2], strict=True)), **options)
        # Cotangents like those of a renderer: smaller where there is more.
        cotangents = [cases.cotangent(y, seed=i) / (1 + y.detach().abs()) for i, y in enumerate(outputs)]
        if reached is not None:
            cotangents = [c.where(reached.view(-1, *[1] * (c.dim() - 1)), 0) for c in cotangents]
        return *outputs, *torch.autograd.grad(outputs, (table, *flat), cotangents)


def points(count, seed=0):
    return 3 * cases.points(count, seed=seed) - 1.5


def assert_near(actual, expected, tolerance=TOLERANCE):
    for a, b in zip(actual, expected, strict=True):
        assert a.shape == b.shape
        scale = max(1e-3, b.abs().max().item()) if b.numel() else 1.0
        torch.testing.assert_close(a.double(), b.double(), rtol=0, atol=tolerance * scale)
