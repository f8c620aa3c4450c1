"""The libraries of a machine with a GPU are built, linked and loaded, also where torch has no CUDA."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from common import libraries
from emulated import EXAMPLES

ROOT = libraries.ROOT
ARCHITECTURES = "7.5;9.0"  # Turing has no tensor cores for bf16; those between change no symbol
STRICT = "-Werror=all-warnings"
CPU_ALONE = {"fusedfield::field_query_rays", "fusedfield::has_bf16", "fusedfield::layers"}

# What a CPU build of torch lacks for a library with CUDA kernels to be linked and loaded. Nothing calls it there.
TORCH_CUDA = """extern "C" {
int aoti_torch_create_cuda_guard() { return 1; }
int aoti_torch_delete_cuda_guard() { return 1; }
int aoti_torch_get_current_cuda_stream() { return 1; }
}
"""
# As main.py builds them where torch sees a GPU; then each operator with the devices it has a kernel for.
BUILD = """
import sys, torch
from torch.utils import cpp_extension
cpp_extension.CUDA_HOME = sys.argv[1]  # a CPU build of torch does not look for it
torch.cuda.is_available = lambda: True
from common import libraries
libraries.build_all(progress=False)
for schema in torch._C._jit_get_all_schemas():
    if schema.name.split("::")[0] in libraries.NAMES:
        has = torch._C._dispatch_has_kernel_for_dispatch_key
        print(schema.name, *(key for key in ("CPU", "CUDA") if has(schema.name, key)))
print(torch.ops.raymarching.morton3D(torch.tensor([[1, 2, 3]], dtype=torch.int32)).item())
"""

pytestmark = pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not on PATH")


def cuda_home() -> Path:
    """The folder of the toolkit whose nvcc is on PATH, where that may be a script."""
    said = subprocess.run(["nvcc", "--dryrun", "-x", "cu", os.devnull], capture_output=True, text=True).stderr
    return Path(re.search(r"_HERE_=(.*)", said).group(1)).parent


def hasty() -> list[str]:
    """Flags for a third of the time and slow kernels, where nvcc (from 12.8 on) has them: none of them is run."""
    said = subprocess.run(["nvcc", "--help"], capture_output=True, text=True).stdout
    return ["-Ofc=max"] if "--Ofast-compile" in said else []


def stand_ins(folder: Path) -> str:
    """The folder, with libraries in it that a CPU build of torch lacks."""
    for name, source in (("torch_cuda", TORCH_CUDA), ("c10_cuda", "")):
        command = ["g++", "-shared", "-fPIC", "-xc++", "-", "-o", str(folder / f"lib{name}.so")]
        subprocess.run(command, input=source, text=True, check=True)
    return str(folder)


def test_libraries_with_kernels_for_a_gpu_are_linked_and_loaded(tmp_path):
    torch_cuda = [stand_ins(tmp_path)] if torch.version.cuda is None else []
    runtime = [str(cuda_home() / name) for name in ("lib64", "lib")]
    paths = {"LIBRARY_PATH": ":".join(torch_cuda), "LD_LIBRARY_PATH": ":".join([*torch_cuda, *runtime])}
    flags = " ".join([STRICT, *hasty()])
    build = {"TADPOLE_CACHE": str(tmp_path), "TORCH_CUDA_ARCH_LIST": ARCHITECTURES, "NVCC_APPEND_FLAGS": flags}
    command = [sys.executable, "-c", BUILD, str(cuda_home())]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | paths | build, capture_output=True, text=True)
    logs = "".join(path.read_text()[-4000:] for path in tmp_path.glob("extensions/*.log"))
    assert done.returncode == 0, done.stderr + logs
    *operators, code = done.stdout.splitlines()
    kernels = {name: devices for name, *devices in map(str.split, operators)}
    assert {name.split("::")[0] for name in kernels} == set(libraries.NAMES)
    assert {name for name, devices in kernels.items() if "CUDA" not in devices} == CPU_ALONE
    assert code == "53"


def test_examples_of_the_emulation_compile(tmp_path):
    command = ["nvcc", "-c", str(EXAMPLES), "-o", str(tmp_path / "examples.o"), "-std=c++20", STRICT]
    flags = [*libraries.CUDA_FLAGS, "-arch=sm_90", f"-I{ROOT}", f"-I{Path(torch.__file__).parent / 'include'}"]
    done = subprocess.run([*command, *flags], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
