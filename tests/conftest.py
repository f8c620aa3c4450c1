"""Shared by all tests: the devices to run on and the number of threads."""

from __future__ import annotations

import os

import pytest
import torch

if "OMP_NUM_THREADS" in os.environ:
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

DEVICES = ["cpu", *([pytest.param("cuda", marks=pytest.mark.cuda)] if torch.cuda.is_available() else [])]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    """Every device of this machine; the tests on cuda carry the mark `cuda`."""
    return torch.device(request.param)
