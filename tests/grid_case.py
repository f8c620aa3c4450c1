"""A small grid for the tests of gridencoder: the operator, its reference, and derivatives of both."""

import itertools

import torch

import cases
from gridencoder import grid_encode, reference
from gridencoder.grid import level_resolutions

SIZES = [0, 1, 31, 257]  # empty, one, around a vector and a block
TOLERANCE = (
    3e-6  # relative to the largest: sums of up to 32 corners, 4 levels and 257 points in float32, in another order
)
PRIMES = [1, 2654435761, 805459861, 3674653429, 2097192037]


class Case:
    """A grid of 4 levels, 5 to 40 nodes an axis (both dense and shared rows), with a table of order 1."""

    def __init__(self, dim=3, channels=2, gridtype="hash", interpolation="linear", align_corners=False, rows=512,
                 device="cpu", levels=4, scale=2.0, base=5):  # fmt: skip
        self.scale, self.base = scale, base
        self.resolutions = level_resolutions(levels, scale, base)
        self.offsets = [0, *itertools.accumulate(min(r**dim, rows) for r in self.resolutions)]
        self.hashed, self.smoothstep = gridtype == "hash", interpolation == "smoothstep"
        self.options = {"gridtype": gridtype, "interpolation": interpolation, "align_corners": align_corners}
        self.table = 2 * cases.points(self.offsets[-1], channels, device=device, seed=7) - 1

    def encode(self, x, table, max_level=None):
        return grid_encode(x, table, self.offsets, self.scale, self.base, **self.options, max_level=max_level)

    def reference(self, x, table, active=None):
        return reference.grid_encode(
            x,
            table,
            self.offsets,
            self.resolutions,
            hashed=self.hashed,
            align_corners=self.options["align_corners"],
            smoothstep=self.smoothstep,
            active=len(self.resolutions) if active is None else active,
        )


def assert_near(actual, expected, tolerance=TOLERANCE):
    assert actual.shape == expected.shape
    scale = max(1.0, expected.abs().max().item()) if expected.numel() else 1.0
    torch.testing.assert_close(actual.double(), expected.double(), rtol=0, atol=tolerance * scale)


def first_derivatives(encode, x, table):
    """The encoding, and its gradients in points and table for a random cotangent."""
    x, table = x.detach().clone().requires_grad_(), table.detach().clone().requires_grad_()
    y = encode(x, table)
    return y, *torch.autograd.grad(y, (x, table), cases.cotangent(y).to(y.dtype))


def second_derivatives(encode, x, table):
    """The gradients of <u, d<g, y>/dx> in points, table and g: what a loss on normals needs."""
    x, table = x.detach().clone().requires_grad_(), table.detach().clone().requires_grad_()
    y = encode(x, table)
    g = cases.cotangent(y, seed=2).requires_grad_()
    (slope,) = torch.autograd.grad(y, x, g, create_graph=True)
    return torch.autograd.grad((slope * cases.cotangent(slope, seed=3)).sum(), (x, table, g), allow_unused=True)
