"""What the training scripts share: a clock that survives interruptions, a rate that anneals over it, safe files."""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from pathlib import Path

import torch


class Clock:
    """Seconds of training so far, across interruptions."""

    def __init__(self, spent: float, minutes: float):
        self.start, self.limit, self.saved = time.time() - spent, 60 * minutes, spent

    @property
    def spent(self) -> float:
        return time.time() - self.start

    @property
    def left(self) -> float:
        return max(self.limit - self.spent, 0.0)

    @property
    def fraction(self) -> float:
        return min(self.spent / self.limit, 1.0) if self.limit else 1.0

    def time_to_save(self, seconds: float) -> bool:
        """Whether the last time is that long ago, or the end is reached."""
        due = self.spent - self.saved > seconds or self.fraction >= 1
        self.saved = self.spent if due else self.saved
        return due


def set_rate(optimizer: torch.optim.Optimizer, peak: float, step: int, fraction: float, warmup: int = 150) -> None:
    """Linear warm-up, then a cosine to zero at the end of the time given; a group takes its `share` of it."""
    rate = peak * min(1, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * fraction))
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("share", 1.0)


def asked_of(options: argparse.Namespace, *names: str) -> dict[str, str]:
    """What a training was asked for, to be kept with its state."""
    return {name: str(getattr(options, name)) for name in names}


def check_same(path: Path, state: dict, asked: dict[str, str]) -> None:
    """End the script where the state in a file is of a training that was asked for something else, and says so."""
    for name, value in asked.items():
        if (before := state.get("asked", asked)[name]) != value:
            print(f"{path} is of a training with --{name} {before}, not {value}: take another --work", file=sys.stderr)
            sys.exit(2)


def save_state(path, **state) -> None:
    """torch.save to a temporary name, then rename."""
    part = path.with_suffix(".part")
    torch.save(state, part)
    os.replace(part, path)


def autocast(device: str) -> torch.autocast:
    """bf16 where the machine multiplies it; a CPU that does not is ten times slower with it."""
    pays = device != "cpu" or torch.cpu._is_avx512_bf16_supported()
    return torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=pays)
