"""Builds a tiny extension in a copy of the house, in processes of their own: what a process loads it cannot unload."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import extension
from common import libraries, toolchain

ROOT = libraries.ROOT
OPS = """#include "common/csrc/common.h"
STABLE_TORCH_LIBRARY(tiny, m) { m.def("triple(Tensor x) -> Tensor"); }
"""
CPU = """#include "tiny.h"
using tadpole::Tensor;
Tensor triple(const Tensor& x) {
  Tensor out = torch::stable::empty_like(x);
  for (int64_t i = 0; i < x.numel(); ++i) tadpole::data<float>(out)[i] = kFactor * tadpole::data<float>(x)[i];
  return out;
}
STABLE_TORCH_LIBRARY_IMPL(tiny, CPU, m) { m.impl("triple", TORCH_BOX(&triple)); }
"""
HEADER = '#include "common/csrc/common.h"\nconstexpr float kFactor = 3.0f;\n'
USE = "import torch, extension; print(extension.load('tiny') and torch.ops.tiny.triple(torch.ones(2)).tolist())"
SETUP = "import setuptools; from common import libraries; setuptools.setup(**libraries.setup_kwargs('tiny'))"

needs_compiler = pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")
needs_cpu_build = pytest.mark.skipif(torch.cuda.is_available(), reason="the tiny extension has no CUDA source")


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """extension.py, common/ and an extension `tiny`."""
    house = tmp_path / "house"
    shutil.copytree(ROOT / "common", house / "common")
    shutil.copy(ROOT / "extension.py", house)
    csrc = house / "tiny" / "csrc"
    csrc.mkdir(parents=True)
    for name, text in (("ops.cpp", OPS), ("cpu.cpp", CPU), ("tiny.h", HEADER)):
        (csrc / name).write_text(text)
    return house


def start(house: Path, code: str, **env: str) -> subprocess.Popen:
    env = {**os.environ, "TADPOLE_CACHE": str(house / "cache"), "TADPOLE_OPS": "native", "OMP_NUM_THREADS": "1", **env}
    command = [sys.executable, "-c", code]
    return subprocess.Popen(command, cwd=house, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def run(house: Path, code: str, **env: str) -> tuple[str, str]:
    process = start(house, code, **env)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out.strip(), err.strip()


def library(house: Path) -> Path:
    (path,) = (house / "cache" / "extensions").glob("tiny-*.so")
    return path


@pytest.mark.parametrize(
    "changed", ["tiny/csrc/cpu.cpp", "tiny/csrc/tiny.h", "common/csrc/common.h", "other/csrc/other.h"]
)
def test_a_change_of_source_or_header_changes_the_key(house, monkeypatch, changed):
    monkeypatch.setattr(libraries, "ROOT", house)
    monkeypatch.setitem(libraries.INCLUDES, "tiny", ("other",))
    (house / "other/csrc").mkdir(parents=True)
    before = extension.status("tiny"), libraries.cached("tiny")
    with open(house / changed, "a") as file:
        file.write("\n")
    assert libraries.cached("tiny") != before[1]
    assert before[0].library is None


def test_a_change_of_flags_changes_the_key(house, monkeypatch):
    monkeypatch.setattr(libraries, "ROOT", house)
    before = libraries.cached("tiny")
    monkeypatch.setattr(libraries, "CXX_FLAGS", [*libraries.CXX_FLAGS, "-O1"])
    assert libraries.cached("tiny") != before


@needs_compiler
@needs_cpu_build
def test_a_build_is_found_by_the_next_process_without_the_compiler(house):
    out, err = run(house, USE)
    assert out == "[3.0, 3.0]"
    assert err == "building tiny (first use, about 5 s) ..."
    out, err = run(house, USE + "; import sys; print('torch.utils.cpp_extension' in sys.modules)", PATH="")
    assert out.splitlines() == ["[3.0, 3.0]", "False"]
    assert err == ""


@needs_compiler
@needs_cpu_build
def test_two_processes_at_once_build_once(house):
    both = [start(house, USE) for _ in range(2)]
    results = [process.communicate(timeout=120) for process in both]
    assert [out.strip() for out, _ in results] == ["[3.0, 3.0]"] * 2
    assert sum("building tiny (first use" in err for _, err in results) == 1


@needs_compiler
@needs_cpu_build
def test_locks_of_a_killed_build_do_not_hang_the_next(house):
    killed = start(house, USE)
    assert "building tiny" in killed.stderr.readline()
    killed.kill()
    killed.communicate()
    (lock,) = (house / "cache" / "extensions").glob("tiny-*.so.lock")
    stale = lock.with_name(lock.name.replace(".so.lock", ".build-stale"))
    stale.mkdir()
    (stale / "lock").touch()  # torch's own: torch waits for it for ever
    assert run(house, USE)[0] == "[3.0, 3.0]"
    assert not list(lock.parent.glob("*.build-*"))


@needs_compiler
@needs_cpu_build
def test_a_truncated_library_is_built_again(house):
    run(house, USE)
    library(house).write_bytes(b"\x7fELF")
    assert run(house, USE)[0] == "[3.0, 3.0]"


@needs_compiler
@needs_cpu_build
def test_a_prebuilt_library_beside_the_package_is_preferred(house):
    run(house, f"import sys; sys.argv = ['setup.py', '-q', 'build_ext', '--inplace']; {SETUP}")
    shutil.rmtree(house / "cache")
    assert run(house, USE, PATH="") == ("[3.0, 3.0]", "")
    assert not (house / "cache").exists()


@needs_compiler
@needs_cpu_build
def test_a_failed_build_names_the_first_error_in_one_line(house):
    (house / "tiny/csrc/tiny.h").write_text("constexpr float kFactor = nonsense;\n")
    out, err = run(house, USE)
    (warning,) = [line for line in err.splitlines() if "warning" in line]
    assert out == "False"
    assert "building tiny failed" in warning and "nonsense" in warning


def test_without_a_compiler_one_warning_and_the_references_serve(house):
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "import torch, extension, shencoder, freqencoder, shencoder.reference as r\n"
        "extension.libraries.beside = extension.libraries.cached\n"  # a library that install_ext.sh left would serve
        "d = torch.rand(5, 3)\n"
        "same = torch.equal(shencoder.sh_encode(d, 4), r.sh_encode(d, 4))\n"
        "freqencoder.freq_encode(d), shencoder.sh_encode(d, 2)\n"
        "print(same, extension.status('shencoder').native, torch.ops.shencoder.__dict__.get('sh_encode'))"
    )
    out, err = run(house.parent, code, PATH="", TADPOLE_CACHE=str(house / "empty"))
    assert out == "True False None"
    assert err.count("warning") == 1 and "apt install g++" in err


@needs_cpu_build
def test_a_compiler_that_fails_is_tried_once_and_named_once(house):
    shutil.copytree(house / "tiny", house / "other")
    code = "import torch, extension as e; print([e.load_all(['tiny', 'other']), e.load('tiny'), e.load('other')])"
    out, err = run(house, code, CXX="/bin/false")
    assert out == "[False, False, False]"
    assert all(err.count(f"building {name} (first use") == 1 for name in ("tiny", "other"))
    (warning,) = [line for line in err.splitlines() if "warning" in line.lower()]
    assert "failed" in warning and warning.endswith("the slower torch operators serve meanwhile")


@pytest.mark.parametrize("typed, expected", [(None, "torch"), ("native", "native")])
def test_the_environment_decides_where_no_mode_is_given(monkeypatch, typed, expected):
    monkeypatch.setattr(extension, "_mode", "native")
    monkeypatch.setenv("TADPOLE_OPS", "torch")
    extension.set_mode(typed)
    assert extension.status("shencoder").mode == expected


def test_torch_mode_builds_nothing(house):
    assert run(house, USE, TADPOLE_OPS="torch", PATH="") == ("False", "")
    assert not (house / "cache").exists()


def test_an_unknown_mode_is_refused(monkeypatch):
    monkeypatch.setenv("TADPOLE_OPS", "slow")
    for mode, source in (("fast", "--ops"), (None, "TADPOLE_OPS")):
        with pytest.raises(ValueError, match=f"{source} must be one of native, torch"):
            extension.set_mode(mode)


def test_a_cache_that_cannot_be_written_is_one_line(house):
    blocked = house / "file"
    blocked.write_text("")
    out, err = run(house, USE, TADPOLE_CACHE=str(blocked))
    assert out == "False" and err.count("\n") == 0 and "TADPOLE_CACHE" in err


@pytest.fixture
def toolkit(tmp_path, monkeypatch):
    """Puts an nvcc that says its version into a folder of the site-packages that torch seems to lie in."""
    monkeypatch.setattr(torch, "__file__", str(tmp_path / "torch" / "__init__.py"))
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr("torch.utils.cpp_extension.CUDA_HOME", None)

    def install(folder: str, release: str) -> Path:
        nvcc = tmp_path / folder / "bin" / "nvcc"
        nvcc.parent.mkdir(parents=True)
        nvcc.write_text(f"#!/bin/sh\necho 'Cuda compilation tools, release {release}, V{release}.89'\n")
        nvcc.chmod(0o755)
        return tmp_path / folder

    return install


def test_a_cuda_toolkit_of_another_major_version_is_named(toolkit, monkeypatch):
    monkeypatch.setattr("torch.utils.cpp_extension.CUDA_HOME", str(toolkit("cuda", "11.8")))
    fix = r'CUDA 13.0, there is 11.8 in \S+cuda: pip install "cuda-toolkit\[nvcc,cccl\]==13.0.\*", or set CUDA_HOME to'
    with pytest.raises(toolchain.ExtensionBuildError, match=fix):
        toolchain.cuda_toolkit()


def test_without_any_cuda_toolkit_an_older_torch_is_not_sent_to_pip(toolkit, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    with pytest.raises(toolchain.ExtensionBuildError, match="^no nvcc for torch's CUDA 12.8: set CUDA_HOME to a CUDA"):
        toolchain.cuda_toolkit()


def test_the_cuda_toolkit_that_pip_installed_serves_where_the_other_does_not_fit(toolkit, monkeypatch, tmp_path):
    other, home = toolkit("cuda", "12.8"), toolkit("nvidia/cu13", "13.1")
    (home / "lib").mkdir()
    (home / "lib" / "libcudart.so.13").write_text("the runtime")
    monkeypatch.setattr("torch.utils.cpp_extension.CUDA_HOME", str(other))
    assert toolchain.use_cuda_toolkit(tmp_path) == [f"-L{tmp_path}"]
    assert (tmp_path / "libcudart.so").read_text() == "the runtime"
    assert str(home) == torch.utils.cpp_extension.CUDA_HOME


@pytest.mark.skipif(shutil.which("clang++") is None, reason="no clang++")
@pytest.mark.parametrize("name", ["gridencoder", "fusedfield"])  # which are written for several sets of instructions
def test_clang_compiles_the_kernels_of_the_cpu(name, tmp_path):
    flags = [*libraries.CXX_FLAGS, "-O0", "-std=c++20", f"-I{ROOT}", f"-I{Path(torch.__file__).parent / 'include'}"]
    command = ["clang++", "-c", str(ROOT / name / "csrc" / "cpu.cpp"), "-o", str(tmp_path / "cpu.o"), *flags]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_jobs_are_capped_by_memory(monkeypatch):
    monkeypatch.delenv("MAX_JOBS", raising=False)
    monkeypatch.setattr(toolchain, "MEMORY_PER_JOB", 1e15)
    assert toolchain.jobs_that_fit() == 1
    monkeypatch.setenv("MAX_JOBS", "7")
    assert toolchain.jobs_that_fit() == 7
