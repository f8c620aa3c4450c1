"""Memory that tensors no longer need."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROUNDS, PAGES = 10, 4096  # of 4 kB
FAULTS = f"""
import resource, sys
from common.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
def step():
    first, second = bytes([1]) * ({PAGES} * 2048), bytes([1]) * ({PAGES} * 2048)  # 8 MB each
for _ in range(4):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range({ROUNDS}):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
glibc = pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="not glibc"
)


def faults(what: str, **environment: str) -> int:
    """Page faults of rounds of making and freeing 4,096 pages; fewer where the system hands out large ones."""
    given = {"PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run([sys.executable, "-c", FAULTS, what], env=given, capture_output=True, text=True, check=True)
    return int(done.stdout)


@glibc
def test_freed_memory_is_kept_for_the_next_tensor():
    assert faults("keep") < faults("leave") / 20


@glibc
@pytest.mark.parametrize(
    "name, value", [("MALLOC_TRIM_THRESHOLD_", "65536"), ("GLIBC_TUNABLES", "glibc.malloc.mmap_threshold=65536")]
)
def test_what_the_user_has_set_stays(name, value):
    assert faults("keep", **{name: value}) > faults("leave", **{name: value}) / 2 > 0
