"""The compiled libraries of the extension folders: which serves, and how one is found, built and installed.

In this order: the one that scripts/install_ext.sh left beside the package, the one an earlier run left in the cache, or
one that is built (about 5 s).
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from common.toolchain import ExtensionBuildError, build_environment, check_toolchain, jobs_that_fit, use_cuda_toolkit

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("gridencoder", "fusedfield", "raymarching", "shencoder", "freqencoder", "adan")  # the longest build first
INCLUDES = {"fusedfield": ("gridencoder",)}  # the other extensions whose headers one includes, beside common's

# No -march: kernels choose AVX2 or AVX-512 when they run, so that a cache shared by machines cannot crash older ones.
DEFINES = ["-DTORCH_TARGET_VERSION=0x020a000000000000"]
CXX_FLAGS = ["-O3", "-fno-math-errno", "-fopenmp" if sys.platform == "linux" else "-fopenmp-simd", *DEFINES]
CUDA_FLAGS = ["-O3", "-DUSE_CUDA", *DEFINES]

mapped: dict[str, Path] = {}  # what this process has loaded: the same operators twice would end it
failures: dict[str, str] = {}  # why a build failed: it is tried once


def build(name: str, *, progress: bool = True) -> Path:
    """Load the library of an extension into this process, building it first where needed.

    Returns: the library's path. Raises: ExtensionBuildError, the same one for a second attempt. `extension.load`
    is the friendly version of this.
    """
    if name in mapped:
        return mapped[name]
    if name in failures:
        raise ExtensionBuildError(failures[name])
    try:
        return _find_or_compile(name, progress)
    except ExtensionBuildError as error:
        failures[name] = str(error)
        raise


def _find_or_compile(name: str, progress: bool) -> Path:
    """The library beside the package, in the cache, or compiled; loaded."""
    for path in (beside(name), cached(name)):
        if use_library(name, path):
            return path
    target = cached(name)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = open(f"{target}.lock", "a")
    except OSError as error:
        raise ExtensionBuildError(
            f"cannot write {target.parent} ({error.strerror}): set TADPOLE_CACHE to a folder you may write to"
        ) from error
    with lock:  # flock belongs to the process: it cannot outlive a killed build
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if progress:
                print(f"another process is building {name}, waiting for it ...", file=sys.stderr, flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        if use_library(name, target):  # built while we waited
            return target
        target.unlink(missing_ok=True)
        for stale in target.parent.glob(f"{target.stem}.build-*"):  # of a killed build, with torch's own lock inside
            shutil.rmtree(stale, ignore_errors=True)
        _compile(name, target, progress)
    return target


def build_all(names: Sequence[str] = NAMES, parallel: int | None = None, *, progress: bool = True) -> dict[str, Path]:
    """Build and load several extensions side by side. Raises ExtensionBuildError for the first that fails."""
    jobs = jobs_that_fit()
    parallel = min(len(names), parallel or jobs)
    # Shared out where nvcc needs memory; g++ needs little, and a long file should not end up alone on one core.
    each = max(1, jobs // parallel) if torch.cuda.is_available() else jobs
    with build_environment(each), ThreadPoolExecutor(parallel) as pool:
        paths = pool.map(lambda name: build(name, progress=progress), names)
        return dict(zip(names, paths, strict=True))


def setup_kwargs(name: str) -> dict:
    """Arguments of setuptools.setup() for `<name>/setup.py build_ext`, which puts the library beside the package."""
    from setuptools.command.build_ext import build_ext

    class BuildExtension(build_ext):
        def run(self) -> None:
            print(install(name))

    return {"name": f"tadpole-{name}", "version": "0.1", "packages": [], "cmdclass": {"build_ext": BuildExtension}}


def install(name: str) -> Path:
    """Build an extension and copy its library beside the package, where every later run finds it without a cache."""
    built, target = build(name), beside(name)
    if built != target:
        for old in target.parent.glob("_C.*.so*"):  # and the notes of first_use.py beside them
            old.unlink()
        _replace(shutil.copy, built, target)
    return target


def _compile(name: str, target: Path, progress: bool) -> None:
    """Compile into a fresh folder, load the result and move it to `target`. The caller holds the lock."""
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # a CUDA toolkit without a GPU is no news
    check_toolchain()
    from torch.utils import cpp_extension

    folder = ROOT / name / "csrc"
    patterns = ["cpu*.cpp", "ops.cpp", *(["cuda*.cu"] if torch.cuda.is_available() else [])]
    sources = [path for pattern in patterns for path in sorted(folder.glob(pattern))]
    seconds = 60 if torch.cuda.is_available() else 5
    openmp = [flag for flag in CXX_FLAGS if flag == "-fopenmp"]
    if progress:
        print(f"building {name} (first use, about {seconds} s) ...", file=sys.stderr, flush=True)
    work = Path(tempfile.mkdtemp(prefix=f"{target.stem}.build-", dir=target.parent))
    try:
        with build_environment(jobs_that_fit()):
            cpp_extension.load(
                name=name,
                sources=[str(source) for source in sources],
                extra_cflags=CXX_FLAGS,
                extra_cuda_cflags=CUDA_FLAGS,
                extra_ldflags=[*openmp, *(use_cuda_toolkit(work) if torch.cuda.is_available() else [])],
                extra_include_paths=[str(ROOT)],
                build_directory=str(work),
                is_python_module=False,
            )
        _replace(os.replace, next(work.glob("*.so")), target)
        mapped[name] = target
    except (RuntimeError, OSError, ImportError, subprocess.SubprocessError) as error:
        log = target.with_suffix(".log")
        log.write_text(str(error))
        lines = str(error).splitlines() or [type(error).__name__]
        cause = next((line.strip() for line in lines if re.search(r"\berror\b[: ]", line)), lines[0])
        raise ExtensionBuildError(f"building {name} failed: {cause} (see {log}; check with: main.py doctor)") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def use_library(name: str, path: Path) -> bool:
    """Serve an extension with this library, once a process. False: it is missing, truncated or of another libc."""
    try:
        torch.ops.load_library(str(path))
    except OSError:
        return False
    mapped[name] = path
    return True


def _replace(move: Callable, source: Path, target: Path) -> None:
    """Put a file at `target` so that other processes see nothing or all of it."""
    part = target.with_name(f".{target.name}.{os.getpid()}")
    move(source, part)
    os.replace(part, target)


def _source_hash(name: str) -> str:
    """Changes with every source, header (the shared ones too) and flag."""
    digest = hashlib.sha256(repr((CXX_FLAGS, CUDA_FLAGS, os.environ.get("CXX"))).encode())
    for part in (name, "common", *INCLUDES.get(name, ())):
        folder = ROOT / part / "csrc"
        for path in sorted(folder.glob("*")):
            if path.suffix in (".h", ".cpp", ".cu"):
                digest.update(f"{folder.parent.name}/{path.name}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def _variant() -> str:
    """The hardware a library is built for."""
    if not torch.cuda.is_available():
        return f"{platform.machine()}-cpu"
    visible = {torch.cuda.get_device_capability(index) for index in range(torch.cuda.device_count())}
    archs = os.environ.get("TORCH_CUDA_ARCH_LIST") or "+".join(f"{a}.{b}" for a, b in sorted(visible))
    return f"{platform.machine()}-cuda{torch.version.cuda}-sm{re.sub('[^0-9.A-Za-z+]+', '+', archs)}"


def cached(name: str) -> Path:
    """Where the library of an extension lies between runs."""
    base = Path(os.environ.get("TADPOLE_CACHE") or "~/.cache/tadpole").expanduser() / "extensions"
    python = f"py{sys.version_info.major}{sys.version_info.minor}"
    return base / f"{name}-{_source_hash(name)}-{python}-torch{torch.__version__.split('+')[0]}-{_variant()}.so"


def beside(name: str) -> Path:
    """Where an installed library lies.

    Neither torch nor python is in its name: thanks to the stable ABI one build serves later versions of both.
    """
    return ROOT / name / f"_C.{_source_hash(name)}-{_variant()}.so"


if __name__ == "__main__":  # scripts/install_ext.sh and gpu_check.sh
    started = time.perf_counter()
    try:
        build_all(progress=True)
        for installed in map(install, NAMES):
            print(installed)
    except ExtensionBuildError as failure:
        sys.exit(f"common/libraries.py: {failure}")
    print(f"{len(NAMES)} extensions ready in {time.perf_counter() - started:.1f} s")
