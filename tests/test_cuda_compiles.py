"""Every CUDA source compiles, also where no GPU and no CUDA build of torch exist."""

from __future__ import annotations

import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

import extension

ROOT = Path(extension.ROOT)
SOURCES = [*sorted(ROOT.glob("*/csrc/*.cu")), ROOT / "tests" / "cuda_emulation" / "examples.cu"]
ARCHITECTURES = ("75", "90")  # Turing, the oldest torch's wheels serve, and Hopper


def compile_source(source: Path, folder: Path) -> subprocess.CompletedProcess:
    include = Path(torch.__file__).parent / "include"
    targets = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in ARCHITECTURES]
    command = ["nvcc", "-c", str(source), "-o", str(folder / f"{source.parts[-3]}-{source.stem}.o"), "-std=c++20"]
    flags = [*extension.CUDA_FLAGS, *targets, f"-I{ROOT}", f"-I{include}", "-Xcompiler=-fPIC", "-Werror=all-warnings"]
    return subprocess.run([*command, *flags], capture_output=True, text=True)


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not on PATH")
def test_cuda_sources_compile_for_turing_and_hopper(tmp_path):
    assert SOURCES
    with ThreadPoolExecutor(2) as pool:
        results = pool.map(lambda source: compile_source(source, tmp_path), SOURCES)
        failures = {str(s.relative_to(ROOT)): r.stderr for s, r in zip(SOURCES, results, strict=True) if r.returncode}
    assert not failures, "\n".join(f"{source}:\n{text}" for source, text in failures.items())
