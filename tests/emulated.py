"""Compiles CUDA sources with g++ against tests/cuda_emulation: operators for the CPU that run the very kernels."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

import extension

EMULATION = Path(__file__).parent / "cuda_emulation"


def compiler() -> str:
    return os.environ.get("CXX", "g++")


def flags() -> list[str]:
    """As nvcc does, products are fused with sums wherever the processor can."""
    torch_folder = Path(torch.__file__).parent
    include = [f"-I{EMULATION / 'include'}", f"-I{extension.ROOT}", f"-isystem{torch_folder / 'include'}"]
    cpu = Path("/proc/cpuinfo")
    fused = ["-mfma", "-ffp-contract=fast"] if cpu.exists() and " fma " in cpu.read_text() else []
    optimise = ["-O1", "-fexpensive-optimizations", *fused]  # the second is what fuses
    language = ["-xc++", "-std=c++20", "-fPIC", "-fvisibility=hidden", "-DUSE_CUDA"]
    return [*language, *optimise, *extension.DEFINES, *include]


def compile_library(sources: list[Path], target: Path, extra: Sequence[str] = ()) -> None:
    """One shared library of CUDA and C++ sources and the emulation. Raises subprocess.CalledProcessError."""
    emulation = [EMULATION / "emulation.cpp", EMULATION / "runtime.cpp"]
    libraries = [f"-L{Path(torch.__file__).parent / 'lib'}", "-ltorch_cpu", "-lc10"]
    command = [compiler(), "-shared", *flags(), *extra, *map(str, [*sources, *emulation])]
    subprocess.run([*command, "-xnone", *libraries, "-o", str(target)], check=True, capture_output=True, text=True)


def compile_extension(name: str, folder: Path, extra: Sequence[str] = ()) -> None:
    """<folder>/<name>.so from the CUDA sources and ops.cpp of an extension."""
    sources = Path(extension.ROOT) / name / "csrc"
    compile_library([*sources.glob("cuda*.cu"), sources / "ops.cpp"], folder / f"{name}.so", extra)


def compile_extensions(names: list[str], folder: Path) -> Path:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda name: compile_extension(name, folder), names))
    return folder
