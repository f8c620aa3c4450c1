"""nerf/fields/rays.py: where rays end, found in rounds and all at once."""

from __future__ import annotations

import math

import pytest
import torch

import cases
from field_case import points
from live_memory import LiveMemory
from nerf.fields.rays import follow, sift


def test_a_round_is_no_longer_than_the_longest_ray(monkeypatch):
    monkeypatch.setattr("nerf.fields.rays.ROUND", 1024)  # [N, 1024] of 262,144 rays are gigabytes
    *_, ts, packed_info = cases.packed_samples(2000, longest=20)
    with LiveMemory() as live:
        follow(lambda x: (x[:, 0].abs(),), points(len(ts)), ts[:, 1], packed_info, 9.0)
    assert live.peak < 2000 * 1024  # bytes; the index alone had eight times as many


@pytest.mark.parametrize("rays, longest", [(0, 5), (3, 0), (1, 1), (70, 50)])
@pytest.mark.parametrize("outlier", [None, math.nan, math.inf])
def test_all_samples_at_once_find_the_ends_that_rounds_find(device, rays, longest, outlier):
    sigmas, rgbs, ts, packed_info = cases.packed_samples(rays, longest=longest, device=device)
    if outlier is not None and len(sigmas):
        sigmas[len(sigmas) // 2] = outlier
    x = torch.arange(len(ts), device=device, dtype=torch.float64)[:, None].expand(-1, 3)
    told = lambda x: (sigmas[x[:, 0].long()], rgbs[x[:, 0].long()])  # noqa: E731
    rounds, at_once = (find(told, x, ts[:, 1], packed_info, 1.0) for find in (follow, sift))
    if outlier is math.nan:  # rounds keep what is behind it, where the others' ends are the same
        owner = (packed_info[:, 0] <= len(sigmas) // 2) & (len(sigmas) // 2 < packed_info.sum(1))
        assert torch.equal(rounds[3][~owner], at_once[3][~owner])
        assert set(at_once[2].tolist()) <= set(rounds[2].tolist())
        assert int(at_once[3].sum()) == len(at_once[2])
    else:
        for one, other in zip(rounds, at_once, strict=True):
            assert one.dtype == other.dtype and torch.equal(one, other)


def test_what_no_ray_owns_is_not_reached():
    packed_info = torch.tensor([[1, 2], [5, 1], [7, 0]], dtype=torch.int32)
    told = lambda x: (torch.ones(len(x)),)  # noqa: E731
    density, kept, counts = sift(told, points(7), torch.full((7,), 0.4), packed_info, 0.3)
    assert kept.tolist() == [1, 5] and counts.tolist() == [1, 1, 0] and len(density) == 2


def test_the_end_of_a_ray_behind_a_million_samples_is_found():
    """A depth of 0.03 a sample, where float32 sums to a million in steps of 0.06."""
    count = torch.tensor([2**20, 8], dtype=torch.int32)
    packed_info = torch.stack([torch.tensor([0, 2**20], dtype=torch.int32), count], 1)
    lengths = torch.cat([torch.ones(2**20), torch.full((8,), 0.03)])
    counts = sift(lambda x: (torch.full((len(x),), 0.9),), torch.zeros(2**20 + 8, 3), lengths, packed_info, 0.1)[-1]
    assert counts.tolist() == [1, 4]  # before each: 0, 0.9 and 0, 0.027, 0.054, 0.081, (0.108)
