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
        cuda_toolkit()


def cuda_toolkit() -> Path:
    """The folder of a CUDA toolkit of torch's major version: the one that torch finds, or pip's, beside torch.

    torch's `load` does not compare versions, and a mismatch ends in unreadable linker or driver errors. Raises
    ExtensionBuildError.
    """
    from torch.utils.cpp_extension import CUDA_HOME

    need = torch.version.cuda or ""
    major = need.partition(".")[0]
    beside = Path(torch.__file__).parents[1] / "nvidia" / f"cu{major}"
    releases = {home: _nvcc_release(home) for home in (Path(CUDA_HOME or os.devnull), beside)}
    for home, release in releases.items():
        if release and (not need or release.partition(".")[0] == major):
            return home
    found = ", ".join(f"there is {release} in {home}" for home, release in releases.items() if release)
    in_one_folder = need and int(major) >= 13  # pip lays the parts of older ones out side by side
    with_pip = f'pip install "cuda-toolkit[nvcc,cccl]=={need}.*", or ' if in_one_folder else ""
    raise ExtensionBuildError(
        f"no nvcc for torch's CUDA {need}{found and f', {found}'}: {with_pip}set CUDA_HOME to a CUDA toolkit {need}"
    )


def _nvcc_release(home: Path) -> str | None:
    nvcc = home / "bin" / "nvcc"
    if not nvcc.exists():
        return None
    text = subprocess.run([str(nvcc), "--version"], capture_output=True, text=True).stdout
    release = re.search(r"release (\d+\.\d+)", text)
    return release and release.group(1)


def use_cuda_toolkit(folder: Path) -> list[str]:
    """Have torch build with `cuda_toolkit`. Returns flags with which the linker finds its runtime.

    Args:
        folder: Gets a link to the runtime where the toolkit has it under its full name alone, as pip's does.
    """
    from torch.utils import cpp_extension

    home = cuda_toolkit()
    cpp_extension.CUDA_HOME = str(home)
    named = sorted((home / "lib").glob("libcudart.so.*"))
    if named and not (home / "lib64" / "libcudart.so").exists():
        (folder / "libcudart.so").symlink_to(named[0])
    return [f"-L{folder}"]


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
