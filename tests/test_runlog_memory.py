"""nerf/runlog.py: peak memory is this process's own, of every GPU."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from nerf.config import ROOT
from nerf.runlog import Phases, write_run


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it is the system's figure")
def test_a_process_is_not_charged_with_the_memory_of_the_one_that_started_it():
    ballast = np.ones(100_000_000)  # 800 MB
    code = "from nerf.runlog import _peak_memory; print(_peak_memory())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert 5e6 < int(done.stdout) < ballast.nbytes


def test_every_gpu_that_took_part_is_reported(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device=0: (0, 1.5e9, 2.5e9)[device])
    assert write_run(tmp_path, Phases())["peak_gpu_memory_gb"] == {"cuda:1": 1.5, "cuda:2": 2.5}
