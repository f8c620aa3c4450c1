"""Whether torch will find a GPU, without importing it: what it was built for, and what the NVIDIA driver says."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import re
from pathlib import Path


def torch_cuda() -> int:
    """The major version of CUDA that the installed torch was built for; 0: for none."""
    spec = importlib.util.find_spec("torch")
    version = Path(spec.origin).with_name("version.py") if spec else None
    found = version and re.search(r"^cuda\b.*= *['\"](\d+)\.", version.read_text(encoding="utf-8"), re.MULTILINE)
    return int(found[1]) if found else 0


def driver_cuda() -> int:
    """The newest major version of CUDA that the driver runs; 0 without a driver, or where this process sees no GPU.

    A container that was started without GPUs may well have the driver's files and its programs.
    """
    try:
        driver = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return 0
    gpus, version = ctypes.c_int(), ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(gpus)) or not gpus.value:
        return 0
    driver.cuDriverGetVersion(ctypes.byref(version))
    return version.value // 1000
