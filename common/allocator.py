"""What becomes of memory that tensors no longer need. Imports nothing heavy."""

from __future__ import annotations

import ctypes
import os
import sys

KEPT = 1 << 30  # bytes
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of mallopt, in glibc's malloc.h
SET_BY_USER = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_")


def keep_freed_memory() -> None:
    """Let glibc keep up to 1 GB of freed memory for the next tensor. What the user has set stays.

    By itself it returns large blocks to the system at once, and the next tensor of that size is brought in and cleared
    again page by page: 4,000 page faults in each step of a frog. Only where a CPU computes: a model that goes on to a
    GPU would leave its memory behind. Other C libraries are left alone.
    """
    tuned = any(name in os.environ for name in SET_BY_USER) or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")
    if sys.platform != "linux" or tuned:
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(TRIM_THRESHOLD, KEPT)
        mallopt(MMAP_THRESHOLD, KEPT)
