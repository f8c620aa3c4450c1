"""DreamTime: the order of the timesteps and how long a run stays with each."""

from __future__ import annotations

import math

import pytest
import torch

from guidance.timesteps import dreamtime

BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
ALPHAS = torch.cumprod(1 - BETAS, 0)
STEPS = 2000


def visited(t_range=(0.02, 0.98), alphas=ALPHAS):
    return [dreamtime(alphas, t_range, step / STEPS) for step in range(STEPS + 1)]


@pytest.mark.parametrize("t_range", [(0.02, 0.98), (0.2, 0.5), (0.0, 1.0)])
def test_timesteps_fall_from_end_to_end_of_the_range(t_range):
    found = visited(t_range)
    assert all(a >= b for a, b in zip(found, found[1:], strict=False))
    low, high = round(1000 * t_range[0]), min(round(1000 * t_range[1]), 999)
    assert high - 3 <= found[0] <= high and low <= found[-1] <= low + (0 if t_range[0] > 0.1 else 400)


def test_the_run_stays_in_proportion_to_the_weight():
    found, total = torch.tensor(visited()), 0.0
    weight = {}
    for t in range(20, 981):
        alpha = float(ALPHAS[t])
        bell = math.exp(-((t - 800) ** 2) / (2 * 300**2)) if t > 800 else 1.0
        bell = math.exp(-((t - 500) ** 2) / (2 * 100**2)) if t < 500 else bell
        weight[t] = math.sqrt((1 - alpha) / alpha) * bell
        total += weight[t]
    for low, high in ((20, 400), (401, 600), (601, 800), (801, 980)):
        expected = sum(weight[t] for t in range(low, high + 1)) / total
        share = ((found >= low) & (found <= high)).float().mean()
        assert float(share) == pytest.approx(expected, abs=3 / STEPS)


def test_a_schedule_of_another_length_is_stretched():
    long, short = visited(), visited(alphas=ALPHAS[9::10])
    assert all(abs(a / 10 - b) < 2.5 for a, b in zip(long, short, strict=True))


def test_a_range_of_one_timestep_is_that_timestep():
    assert {dreamtime(ALPHAS, (0.5, 0.5), share) for share in (0.0, 0.3, 1.0)} == {500}
