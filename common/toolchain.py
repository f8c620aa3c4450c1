"""The tools that compile an extension: are they there, do they fit, and how many may run at once."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

MEMORY_PER_JOB = 1.5e9  # bytes nvcc needs for one file; g++ needs a fifth of it


class ExtensionBuildError(RuntimeError):
    """A compiled extension could not be built or loaded; the message is one line: what failed and how to fix it."""


def check_toolchain() -> None:
    """Raise ExtensionBuildError where something needed to build is missing or does not fit; takes milliseconds."""
    compiler = shlex.split(os.environ.get("CXX", "c++"))[0]
    if shutil.which(compiler) is None:
        fix = "xcode-select --install" if sys.platform == "darwin" else "sudo apt install g++"
        raise ExtensionBuildError(f"no C++ compiler ({compiler} is not on PATH): {fix}, or set CXX")
    if ninja_folder() is None and shutil.which("ninja") is None:
        raise ExtensionBuildError("no ninja to build the compiled operators with: pip install ninja")
    if torch.cuda.is_available():
        _check_cuda()


def _check_cuda() -> None:
    """torch's `load` does not compare versions, and a mismatch ends in unreadable linker or driver errors."""
    from torch.utils.cpp_extension import CUDA_HOME

    need = torch.version.cuda
    nvcc = Path(CUDA_HOME or "", "bin", "nvcc")
    if CUDA_HOME is None or not nvcc.exists():
        raise ExtensionBuildError(f"nvcc not found: install the CUDA toolkit {need} or set CUDA_HOME")
    text = subprocess.run([str(nvcc), "--version"], capture_output=True, text=True).stdout
    found = re.search(r"release (\d+)\.(\d+)", text)
    if need and found and found.group(1) != need.split(".")[0]:
        have = ".".join(found.groups())
        raise ExtensionBuildError(
            f"nvcc {have} ({nvcc}) does not fit torch's CUDA {need}: install CUDA toolkit {need}, set CUDA_HOME to it"
        )


def ninja_folder() -> str | None:
    with contextlib.suppress(ImportError):
        import ninja

        return ninja.BIN_DIR
    return None


def jobs_that_fit() -> int:
    """Compile jobs that fit into cores and free memory."""
    if os.environ.get("MAX_JOBS", "").isdigit():
        return max(1, int(os.environ["MAX_JOBS"]))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return cores
    return max(1, min(cores, int(free / MEMORY_PER_JOB)))


@contextlib.contextmanager
def build_environment(jobs: int) -> Iterator[None]:
    """ninja on PATH and MAX_JOBS set for torch, both put back afterwards."""
    before = {key: os.environ.get(key) for key in ("PATH", "MAX_JOBS")}
    if ninja_folder():
        os.environ["PATH"] = os.pathsep.join([ninja_folder(), before["PATH"] or os.defpath])
    os.environ["MAX_JOBS"] = str(before["MAX_JOBS"] or jobs)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value
