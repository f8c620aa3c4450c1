"""A step leaves as much memory taken as it found."""

from __future__ import annotations

import gc

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

# What every step keeps has one size: the network of the background has no steps off, and the occupancy grid stays.
ALIKE = {"iters": 1000, "update_extra_interval": 1000, "background": "color"}


def take(made, steps):
    for _ in range(steps):
        made.train_step()


def net_bytes(made, steps):
    """What the steps take of the CPU's memory through torch and do not give back.

    What replaces something that was there before counts as taken: torch knows no size of that.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as seen:
        take(made, steps)
        gc.collect()
    return sum(event.self_cpu_memory_usage for event in seen.key_averages())


def left_by_ten(made):
    return net_bytes(made, 13) - net_bytes(made, 3)


def steady(make, latents=0.0, albedo=1.0):
    """A trainer in one phase."""
    made = make(**ALIKE, latent_iter_ratio=latents, albedo_iter_ratio=albedo)
    take(made, 20)
    net_bytes(made, 1)  # the profiler's own first time
    return made


@pytest.mark.parametrize("latents, albedo", [(0.0, 1.0), (0.0, 0.0), (1.0, 1.0)], ids=["plain", "shaded", "latents"])
def test_memory_is_flat(make, latents, albedo):
    assert left_by_ten(steady(make, latents, albedo)) == 0


def test_a_leak_shows(make, monkeypatch):
    made, kept = steady(make), []
    step = made.train_step
    monkeypatch.setattr(made, "train_step", lambda: (step(), kept.append(torch.empty(3))))
    assert left_by_ten(made) == 10 * 12


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_memory_of_a_gpu_is_after_500_steps_what_it_was_after_50(make):
    made = make(**ALIKE, latent_iter_ratio=0.0, albedo_iter_ratio=0.0, device="cuda")
    taken = []
    for steps in (50, 450):
        take(made, steps)
        torch.cuda.synchronize()
        taken.append(torch.cuda.memory_allocated())
    assert taken[0] == taken[1]
