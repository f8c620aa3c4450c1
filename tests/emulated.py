"""Compiles CUDA sources with g++ against tests/cuda_emulation: operators for the CPU that run the very kernels.

By hand, with any test that takes operators of an extension:
    PYTHONPATH=. python tests/emulated.py /tmp/libraries raymarching adan
    TADPOLE_TEST_LIBRARIES=/tmp/libraries TADPOLE_EMULATION_ORDER=reverse python -m pytest tests/test_raymarching.py
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from common import libraries

EMULATION = Path(__file__).parent / "cuda_emulation"
EXAMPLES = EMULATION / "examples.cu"
TORCH = Path(torch.__file__).parent
COMPILER = os.environ.get("CXX", "g++")
# What memcheck finds on a GPU: accesses outside of tensors and arrays, and vectors that are not aligned.
SANITIZERS = ["-fsanitize=address,alignment,bounds", "-fno-sanitize-recover=all", "--param=asan-stack=0", "-g1"]


def flags() -> list[str]:
    cpu = Path("/proc/cpuinfo")
    fused = ["-mfma"] if cpu.exists() and " fma " in cpu.read_text() else []
    # As nvcc does, products are fused with sums. -O1 compiles fastest, the option beside it is what fuses.
    optimise = ["-O1", "-fexpensive-optimizations", "-ffp-contract=fast", *fused]
    language = ["-std=c++20", "-fPIC", "-fvisibility=hidden", "-DUSE_CUDA", *libraries.DEFINES]
    include = [f"-I{EMULATION / 'include'}", f"-I{libraries.ROOT}", f"-isystem{TORCH / 'include'}"]
    return [*language, *optimise, *include]


def _run(command: Sequence[str | Path]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)


def compile_libraries(wanted: Mapping[Path, Sequence[Path]], extra: Sequence[str] = ()) -> None:
    """Each shared library of its CUDA and C++ sources and the emulation. Raises RuntimeError."""
    emulation = [EMULATION / "emulation.cpp", EMULATION / "runtime.cpp"]
    options = [*flags(), *extra]
    with TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        sources = dict.fromkeys(source for own in wanted.values() for source in [*own, *emulation])
        objects = {source: os.path.join(folder, f"{number}.o") for number, source in enumerate(sources)}
        list(pool.map(lambda source: _run([COMPILER, "-c", *options, "-xc++", source, "-o", objects[source]]), objects))
        for library, own in wanted.items():
            parts = [objects[source] for source in [*own, *emulation]]
            _run([COMPILER, "-shared", *extra, *parts, f"-L{TORCH / 'lib'}", "-ltorch_cpu", "-lc10", "-o", library])


def compile_extensions(names: Sequence[str], folder: Path, extra: Sequence[str] = ()) -> Path:
    """<folder>/<name>.so of each extension: its CUDA sources and ops.cpp."""
    csrc = {folder / f"{name}.so": libraries.ROOT / name / "csrc" for name in names}
    wanted = {library: [*sorted(own.glob("cuda*.cu")), own / "ops.cpp"] for library, own in csrc.items()}
    compile_libraries(wanted, extra)
    return folder


def _of_compiler(name: str) -> str:
    return subprocess.run([COMPILER, f"-print-file-name={name}"], capture_output=True, text=True).stdout.strip()


def available() -> bool:
    """Whether there is a g++ with its sanitizers."""
    return shutil.which(COMPILER) is not None and os.path.isabs(_of_compiler("libasan.so"))


def sanitized() -> dict[str, str]:
    """The environment of a process that loads libraries made with SANITIZERS: theirs has to come first."""
    preload = " ".join(map(_of_compiler, ("libasan.so", "libstdc++.so")))
    return os.environ | {"LD_PRELOAD": preload, "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0"}


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    compile_extensions(sys.argv[2:], target)
