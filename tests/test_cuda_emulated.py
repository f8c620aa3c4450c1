"""The very source of the CUDA kernels, run on the CPU: it passes the tests that the CPU kernels pass.

Only a GPU (scripts/gpu_check.sh) shows the rest: what nvcc makes of it, the memory model, and time.
"""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

import emulated

TESTS = Path(__file__).parent
# Tests of kernels whose threads wait for each other.
EXCHANGING = ["fusedfield_cuda", "raymarching", "raymarching_composite"]
RUNS = {
    "forward": ["gridencoder", *EXCHANGING, "shencoder", "freqencoder", "adan", "fields"],
    "reverse": EXCHANGING,
}
# What CPU kernels alone promise, and what runs no kernel.
OTHERS = "thread or cpu_path_is_named or outside_the_samples or gradcheck or reference_has"
ORDERS = ["forward", "reverse", "1"]

pytestmark = pytest.mark.skipif(not emulated.available(), reason="no g++ with sanitizers")


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    library = tmp_path_factory.mktemp("examples") / "examples.so"
    emulated.compile_libraries({library: [emulated.EXAMPLES]})
    torch.ops.load_library(str(library))
    return torch.ops.emulation_examples


@pytest.fixture(params=ORDERS)
def order(request, monkeypatch):
    monkeypatch.setenv("TADPOLE_EMULATION_ORDER", request.param)
    return request.param


def run_tests(libraries: Path, order: str) -> subprocess.CompletedProcess:
    files = [str(TESTS / f"test_{name}.py") for name in RUNS[order]]
    command = [sys.executable, "-m", "pytest", "-q", "--maxfail=5", "-k", f"not ({OTHERS})", *files]
    settings = {
        "TADPOLE_TEST_LIBRARIES": str(libraries),
        "TADPOLE_EMULATION_ORDER": order,
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(command, env=emulated.sanitized() | settings, capture_output=True, text=True)


def test_kernels_pass_the_tests_of_the_cpu_kernels(emulated_libraries):
    with ThreadPoolExecutor() as pool:
        done = pool.map(lambda order: (order, run_tests(emulated_libraries, order)), RUNS)
        failed = [f"{order}\n{it.stdout[-9000:]}{it.stderr[-9000:]}" for order, it in done if it.returncode]
    assert not failed, "\n".join(failed)


def test_a_barrier_orders_writing_and_reading_and_a_missing_one_shows(examples, order):
    x, (none, warp, block) = torch.randn(64), range(3)
    assert torch.equal(examples.reverse(x, block), x.flip(0))
    assert not torch.equal(examples.reverse(x, none), x.flip(0))
    assert not torch.equal(examples.reverse(x, warp), x.flip(0))


def test_lanes_exchange_values_and_one_that_never_comes_is_an_error(examples, order):
    x = torch.randn(32)
    before = torch.cat([x[:1], x[:-1]])
    assert torch.equal(examples.shift(x, 32), before)
    with pytest.raises(RuntimeError, match=r"shift: thread \(\d+, 0, 0\) of block \(0, 0, 0\)"):
        examples.shift(x, 31)
    assert torch.equal(examples.shift(x, 32), before)  # the next launch has forgotten it


def test_threads_at_two_barriers_are_an_error(examples, order):
    with pytest.raises(RuntimeError, match="diverge: threads of a block wait at"):
        examples.diverge(torch.zeros(64))


def test_matrix_fragments_are_laid_out_as_the_instructions_want_them(examples):
    a, b = torch.randn(16, 16).bfloat16(), torch.randn(16, 8).bfloat16()
    torch.testing.assert_close(examples.product(a, b), a.float().T @ b.float(), rtol=0, atol=1e-5)  # sums of 16


def test_a_read_beyond_a_tensor_ends_the_process(tmp_path):
    library = tmp_path / "examples.so"
    emulated.compile_libraries({library: [emulated.EXAMPLES]}, emulated.SANITIZERS)
    for count, fits in ((60, True), (61, False)):
        load = f"import torch; torch.ops.load_library({str(library)!r})"
        call = f"torch.ops.emulation_examples.copy(torch.zeros(60), {count})"
        command = [sys.executable, "-c", f"{load}; {call}"]
        run = subprocess.run(command, env=emulated.sanitized(), capture_output=True, text=True)
        assert (run.returncode == 0) == fits, run.stderr
        assert fits or "heap-buffer-overflow" in run.stderr
