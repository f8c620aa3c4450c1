"""The limits of the processor, measured: what a benchmark's figures are shares of."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

import extension

SECONDS = 0.02  # that a probe lasts at least
REPEATS = 5  # of which the fastest counts: the others were disturbed
TABLE_BYTES = 1 << 24  # of random rows: beyond the second cache, as the fine levels of a grid are
COPIED_BYTES = 1 << 28  # beyond all caches


@dataclass(frozen=True)
class Roofline:
    """Limits over all threads."""

    gflops: float  # of float32 multiply-adds, two operations each
    gflops_bf16: float | None  # of bf16 products summed in float32; None: the processor has none
    gigabytes: float  # read and written a second by a copy of what is in no cache
    gigarows: float  # random rows of 8 bytes read a second, of a table of 16 MB


def probe() -> Roofline:
    """Measure the limits of the CPU with torch's number of threads; about a second.

    Raises:
        RuntimeError: The probes could not be built.
    """
    if not extension.load("roofline"):
        raise RuntimeError("the probes need compiled operators: `python main.py doctor` says what is missing")
    ops = torch.ops.roofline
    has_bf16 = extension.load("fusedfield") and torch.ops.fusedfield.has_bf16()
    generator = torch.Generator().manual_seed(0)
    table = torch.rand(TABLE_BYTES // 8, 2, generator=generator)
    rows = torch.randint(len(table), (1 << 22,), generator=generator, dtype=torch.int32)
    source = torch.rand(COPIED_BYTES // 4, generator=generator)
    to = torch.empty_like(source)
    copied = fastest(lambda: ops.copy(to, source))
    return Roofline(
        gflops=_gflops(False),
        gflops_bf16=_gflops(True) if has_bf16 else None,
        gigabytes=2 * COPIED_BYTES / copied / 1e9,
        gigarows=len(rows) / fastest(lambda: ops.gather(table, rows)) / 1e9,
    )


def _gflops(bf16: bool) -> float:
    run, rounds = torch.ops.roofline.multiply_add, 1000
    while fastest(partial(run, rounds, bf16), 1) < SECONDS:
        rounds *= 4
    products, _ = run(rounds, bf16)
    return 2 * products / fastest(partial(run, rounds, bf16)) / 1e9


def fastest(run: Callable[[], object], repeats: int = REPEATS) -> float:
    """Seconds of the fastest of several runs."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)
