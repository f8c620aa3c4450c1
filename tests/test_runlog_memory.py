"""nerf/runlog.py: peak memory is this process's own."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from nerf.config import ROOT


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it is the system's figure")
def test_a_process_is_not_charged_with_the_memory_of_the_one_that_started_it():
    ballast = np.ones(100_000_000)  # 800 MB
    code = "from nerf.runlog import _peak_memory; print(_peak_memory())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert 5e6 < int(done.stdout) < ballast.nbytes
