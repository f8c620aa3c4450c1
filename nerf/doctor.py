"""`python main.py doctor`: can this machine do the main job, and if not, what to do about it.

One line each: `ok`, `warn` (it works, but less well) or `FAIL` (the main job cannot run), what was found, and the fix.
"""

from __future__ import annotations

import hashlib
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from nerf import preflight
from nerf.config import Config

NEEDED = ("numpy", "tqdm", "diffusers", "transformers", "safetensors", "imageio-ffmpeg", "opencv-python-headless")
HELPFUL = {  # package -> what is lost without it
    "xatlas": "meshes get a simpler atlas",
    "fast-simplification": "meshes are not decimated",
    "tensorboardX": "no TensorBoard log",
    "sentencepiece": "no DeepFloyd IF",
}
OLDEST_PYTHON, OLDEST_TORCH = (3, 10), (2, 10)


@dataclass(frozen=True)
class Finding:
    level: str  # ok | warn | FAIL
    what: str
    fix: str = ""

    def __str__(self) -> str:
        return f"{self.level:<4} {self.what}" + (f" - {self.fix}" if self.fix else "")


def run(config: Config) -> int:
    """Print every finding as it comes; 0, or 1 where the main job cannot run."""
    failed = False
    for finding in examine(config):
        print(finding, flush=True)
        failed |= finding.level == "FAIL"
    print("the main job cannot run here: see FAIL above" if failed else "the main job can run here")
    return int(failed)


def examine(config: Config) -> Iterator[Finding]:
    """All findings, the cheap ones first."""
    yield check_python(sys.version_info[:3])
    yield from check_packages(NEEDED, HELPFUL)
    yield check_prior(Path(config.guidance.toybox_dir))
    yield check_disk(config.run.workspace)
    found = check_torch(torch_version())
    yield found
    if found.level != "FAIL":
        yield check_compiler()
        yield check_gpu()
        yield from check_extensions()


def check_python(version: tuple[int, ...]) -> Finding:
    """The interpreter is new enough."""
    text = f"Python {'.'.join(map(str, version))} on {platform.machine()}"
    if tuple(version[:2]) >= OLDEST_PYTHON:
        return Finding("ok", text)
    return Finding("FAIL", text, "install Python 3.10 or newer and make the virtual environment with it")


def torch_version() -> str:
    """The installed torch's version, read without importing it; "" without one."""
    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError:
        return ""


def check_packages(needed: tuple[str, ...], helpful: dict[str, str]) -> Iterator[Finding]:
    """What requirements.txt lists, by its installed version: nothing is imported."""
    for name in (*needed, *helpful):
        try:
            yield Finding("ok", f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            loss = f" ({helpful[name]})" if name in helpful else ""
            yield Finding("warn" if loss else "FAIL", f"{name} is missing{loss}", "pip install -r requirements.txt")


def check_prior(folder: Path) -> Finding:
    """The embedded prior is whole: every file of its SHA256SUMS is there with its hash."""
    sums = folder / "SHA256SUMS"
    fix = "git checkout toybox/prior (or git clone again)"
    if not sums.is_file():
        return Finding("FAIL", f"toybox prior: {sums} is missing", fix)
    count = 0
    for line in sums.read_text().splitlines():
        digest, _, name = line.partition(" ")
        file = folder / name.lstrip(" *")
        if not file.is_file():
            return Finding("FAIL", f"toybox prior: {file} is missing", fix)
        if hashlib.sha256(file.read_bytes()).hexdigest() != digest:
            return Finding("FAIL", f"toybox prior: {file} is damaged", fix)
        count += 1
    return Finding("ok", f"toybox prior: {count} files with the right hash in {folder}")


def check_disk(workspace: str) -> Finding:
    """Room for a run, in what is or can become a folder."""
    try:
        preflight.check_disk(workspace)
    except ValueError as error:
        return Finding("FAIL", f"disk: {error}", "use another --workspace")
    return Finding("ok", f"disk: room for a run in {Path(workspace).absolute()}")


def check_torch(version: str) -> Finding:
    """torch is installed, new enough, and can be imported."""
    fix = "pip install -r requirements.txt"
    if not version:
        return Finding("FAIL", "torch is missing", fix)
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_TORCH:
        return Finding("FAIL", f"torch {version} is older than {'.'.join(map(str, OLDEST_TORCH))}", fix)
    try:
        import torch
    except (ImportError, OSError) as error:
        return Finding(
            "FAIL", f"torch {version} cannot be imported ({_line(error)})", "pip install --force-reinstall torch"
        )
    return Finding("ok", f"torch {version}, CUDA {torch.version.cuda or 'none'}, {torch.get_num_threads()} threads")


def check_compiler() -> Finding:
    """Everything to build the extensions with: compiler, ninja, and a CUDA toolkit of torch's major version."""
    from common.toolchain import ExtensionBuildError, check_toolchain

    try:
        check_toolchain()
    except ExtensionBuildError as error:
        return Finding("warn", f"compiler: {error}", "until then the slower torch operators serve")
    return Finding("ok", f"compiler: {_first_line('c++', '--version')}, ninja {_first_line('ninja', '--version')}")


def check_gpu() -> Finding:
    """A GPU, if any, has kernels in this torch wheel."""
    import torch

    if torch.cuda.is_available():
        major, minor = torch.cuda.get_device_capability()
        name, wheel = torch.cuda.get_device_name(), torch.cuda.get_arch_list()
        if runs_on((major, minor), wheel):
            return Finding("ok", f"GPU: {name}, sm_{major}{minor}")
        what = f"GPU: {name} is sm_{major}{minor}, this torch wheel has {' '.join(wheel)}"
        return Finding("FAIL", what, "install the torch wheel of an older CUDA (pytorch.org), or use --device cpu")
    if shutil.which("nvidia-smi") and torch.version.cuda is None:
        return Finding("warn", "GPU: torch is built without CUDA", "install torch from download.pytorch.org/whl/cu130")
    if shutil.which("nvidia-smi"):
        return Finding("warn", "GPU: torch cannot use it", f"update the NVIDIA driver for CUDA {torch.version.cuda}")
    return Finding("ok", "GPU: none, the CPU does the work with the toybox prior")


def runs_on(capability: tuple[int, int], wheel: list[str]) -> bool:
    """Whether a wheel built for these architectures (sm_90, compute_90, ...) has code for a GPU.

    Machine code runs on the same major version from its minor version up, PTX on everything newer.
    """
    for item in wheel:
        kind, _, digits = item.partition("_")
        digits = digits.rstrip("af")
        built = (int(digits[:-1]), int(digits[-1]))
        if kind == "compute" and built <= capability:
            return True
        if kind == "sm" and built[0] == capability[0] and built <= capability:
            return True
    return False


def check_extensions() -> Iterator[Finding]:
    """Each extension builds, loads, and agrees with its plain torch reference on some points."""
    import torch

    import extension
    from nerf.first_use import compare_apart

    device = "cuda" if torch.cuda.is_available() else "cpu"
    extension.set_mode("native")
    built = [name for name in extension.NAMES if extension.load(name)]
    for name in extension.NAMES:
        if name not in built:
            yield Finding("warn", f"{name}: {extension.status(name).error}", "until then its torch reference serves")
    silent = set(built)
    for name, problem, share in compare_apart(device, built):
        silent.remove(name)
        if not problem:
            yield Finding("ok", f"{name}: native on {device}, within {share:.0e} of its reference")
        elif device == "cuda":
            yield Finding("warn", f"{name}: {problem}", "a run leaves it to torch; please report it")
        else:
            yield Finding("FAIL", f"{name}: {problem}", "delete ~/.cache/tadpole, or use --ops torch, and report it")
    for name in sorted(silent):
        yield Finding("warn", f"{name}: nothing runs on {device} now", "is its memory taken by another program?")


def _first_line(*command: str) -> str:
    """The first line a program prints, "not on PATH" without the program."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()[0]
    except (OSError, IndexError):
        return "not on PATH"


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
