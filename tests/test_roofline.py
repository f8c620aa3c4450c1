"""The probes: they do what they count, on every path."""

import pytest
import torch

import extension
from roofline import probe


@pytest.fixture(autouse=True)
def native():
    assert extension.load("roofline"), "the probes could not be built"


def test_a_copy_copies_and_a_gather_reads_every_row():
    source, to = torch.rand(100_001, generator=torch.Generator().manual_seed(0)), torch.zeros(100_001)
    torch.ops.roofline.copy(to, source)
    assert torch.equal(to, source)
    table, rows = torch.rand(64, 2), torch.arange(64, dtype=torch.int32)
    before = torch.ops.roofline.gather(table, rows)
    table[63] += 1
    assert torch.ops.roofline.gather(table, rows) != before
    with pytest.raises(RuntimeError, match="row 64 of a table of 64"):
        torch.ops.roofline.gather(table, rows + 1)


def test_multiply_adds_are_counted_by_the_width_of_the_vectors(path):
    products, total = torch.ops.roofline.multiply_add(1000, False)
    lanes = {"baseline": 4, "avx2": 8, "avx512": 16}[path]
    assert products == torch.get_num_threads() * 1000 * 12 * lanes
    one = sum(0.999**1000 * i + 0.001 * (1 - 0.999**1000) / 0.001 for i in range(12))  # the first lane of each sum
    assert total == pytest.approx(torch.get_num_threads() * one, rel=1e-3)


def test_limits_are_plausible():
    found = probe()
    assert 0.5 < found.gflops < 1e5 and 0.5 < found.gigabytes < 1e4 and 1e-3 < found.gigarows < 1e3
    assert found.gflops_bf16 is None or found.gflops_bf16 > 0.5
