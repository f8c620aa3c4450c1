"""What the tests of the small world's distances and of its tracer share: solids, cameras, the reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from toybox import reference, tracer
from toybox.primitives import SPOTS, Solid, rotate_x, rotate_y, rotate_z
from toybox.tracer import cameras, query, trace

RED, GREEN, BLUE, WHITE = (0.9, 0.1, 0.1), (0.1, 0.9, 0.1), (0.1, 0.1, 0.9), (1.0, 1.0, 1.0)
HIT = reference.HIT  # scene units at which a ray counts as arrived
BOTH = pytest.mark.parametrize("ops", [tracer, reference], ids=["compiled", "reference"])


def array(solid: Solid) -> torch.Tensor:
    """The primitives as they were added, neither centred nor scaled."""
    return torch.tensor(solid._rows, dtype=torch.float32)


def points(count=500, seed=0) -> torch.Tensor:
    return torch.rand(count, 3, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def distance(solid: Solid, at: torch.Tensor) -> torch.Tensor:
    """From the tracer in use, which is also compared with the reference."""
    found = query(array(solid), at)
    assert_close(found, reference.query(array(solid), at), atol=1e-5, rtol=0)  # float32, sizes of about 1
    return found[:, 0]


def view(azimuth, elevation, radius=3.2, fovy=20.0) -> torch.Tensor:
    return cameras(*(torch.tensor([float(v)]) for v in (azimuth, elevation, radius, fovy)))


def animal() -> torch.Tensor:
    """Ellipsoids that melt into each other, and hard ones on top: what the animals are made of."""
    s = Solid().ellipsoid((0, -0.15, 0), (0.38, 0.28, 0.42), GREEN)
    s.ellipsoid((0, 0.1, 0.24), (0.33, 0.2, 0.25), GREEN, blend=0.08)
    for x in (-1, 1):
        s.sphere((x * 0.2, 0.27, 0.24), 0.12, GREEN).ellipsoid((x * 0.2, 0.3, 0.32), (0.09, 0.09, 0.06), WHITE)
        s.ellipsoid((x * 0.4, -0.23, -0.15), (0.17, 0.19, 0.29), BLUE, rotation=rotate_z(x * 20), blend=0.04)
    return torch.from_numpy(s.paint(GREEN, SPOTS, RED).rows())


def jumble(seed, count=24) -> torch.Tensor:
    """Every kind of primitive, anywhere, turned anyhow, half of them blended and a third patterned."""
    rng, s = np.random.default_rng(seed), Solid()
    for i in range(count):
        c, a, b, d = rng.uniform(-0.4, 0.4, 3), *rng.uniform(0.03, 0.15, 3)
        colour = tuple(rng.uniform(0, 1, 3))
        turn, blend = rotate_x(rng.uniform(0, 180)) @ rotate_y(rng.uniform(0, 180)), rng.uniform(0.02, 0.1) * (i % 2)
        add, size = [
            (s.ellipsoid, [(a, b, d)]),
            (s.box, [(a, b, d)]),
            (s.cylinder, [a, b]),
            (s.cone, [a, b, 0.3 * b]),
            (s.torus, [a, 0.3 * a]),
        ][i % 5]
        add(c, *size, colour, rotation=turn, blend=blend)
        s.paint(colour, i % 3, WHITE)
    return torch.from_numpy(s.rows())


def rays(views: torch.Tensor, resolution: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Origins and unit directions through the centres of all pixels. [B, R, R, 3] each"""
    centre = (torch.arange(resolution) + 0.5) / resolution * 2 - 1
    o, right, up, forward = (v[:, None, None] for v in views.split(3, 1))
    d = forward + centre[None, None, :, None] * right - centre[None, :, None, None] * up
    return o.expand_as(d), torch.nn.functional.normalize(d, dim=-1)


def assert_sees_what_the_reference_sees(rows, views, resolution):
    """The same hits, and at each what the reference finds at that very point with every primitive asked."""
    seen = trace(rows, views, resolution)
    with (
        pytest.MonkeyPatch.context() as patch
    ):  # the compiled query has its own tests, asks them all, and saves minutes
        patch.setattr(reference, "query", query)
        expected = reference.trace(rows, views, resolution)
    both = (seen[..., 3] > 0) & (expected[..., 3] > 0)
    # A ray that grazes may arrive in one and just miss in the other: they step differently.
    grazes = (seen[..., 3] != expected[..., 3]).sum()
    assert grazes <= 1 + 0.003 * both.sum()
    assert (seen[seen[..., 3] == 0] == 0).all()
    # Each stops within HIT of the surface; seen at a slant that is a longer way.
    assert ((seen - expected)[both][:, 7].abs() < 2 * HIT).float().mean() > 0.98 - 1 / max(len(both), 1)
    hit = seen[..., 3] > 0
    origins, directions = rays(views, resolution)
    at = (origins + seen[..., 7:] * directions)[hit].double()  # float32 would shift the normals of thin things
    exact = reference.query(rows.double(), at)
    assert (exact[:, 0] < HIT + 1e-5).all()
    if hit.any():
        h = torch.eye(3, dtype=torch.float64) * 2e-3
        slope = [reference.query(rows.double(), at + o)[:, 0] - reference.query(rows.double(), at - o)[:, 0] for o in h]
        normal = torch.nn.functional.normalize(torch.stack(slope, -1), dim=-1).float()
        # float32 knows the distance to 2e-7 of differences of 4e-3; 1 in 1000: a difference of nothing has no direction
        assert ((seen[hit][:, 4:7] - normal).abs().amax(1) < 5e-3).float().mean() > 0.999
        # Points on the line between two colours may fall on either side.
        assert ((seen[hit][:, :3] - exact[:, 1:]).abs().amax(1) < 1e-5).float().mean() > 0.998
