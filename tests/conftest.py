"""Shared by all tests: the devices to run on, the number of threads, and TADPOLE_TEST_LIBRARIES, a folder of <name>.so
that serve in place of the extensions' own (test_cuda_emulated.py)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

import extension
from fusedfield import dispatch

FOLDER = os.environ.get("TADPOLE_TEST_LIBRARIES")
LIBRARIES = sorted(Path(FOLDER).glob("*.so")) if FOLDER else []
for library in LIBRARIES:
    assert extension.use_library(library.stem, library), f"{library} does not load"
if LIBRARIES:  # kernels for CUDA
    dispatch.SERVES["cpu"] = dispatch.SERVES["cuda"]

if "OMP_NUM_THREADS" in os.environ:
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

torch.backends.cudnn.allow_tf32 = False  # results are compared with those of a CPU
DEVICES = ["cpu", *([pytest.param("cuda", marks=pytest.mark.cuda)] if torch.cuda.is_available() else [])]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    """Every device of this machine; the tests on cuda carry the mark `cuda`."""
    return torch.device(request.param)


@pytest.fixture(params=["emulated"] if LIBRARIES else ["baseline", "avx2", "avx512"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every set of instructions that CPU kernels are written for; those this processor lacks are skipped."""
    if LIBRARIES:
        return request.param
    import cases
    from gridencoder import grid_encode

    monkeypatch.setenv("TADPOLE_CPU_PATH", request.param)
    try:
        grid_encode(cases.points(1), cases.points(8, 2), [0, 8], 1.0, 2)
    except RuntimeError as error:
        assert "does not have" in str(error)
        pytest.skip(f"no {request.param} here")
    return request.param


@pytest.fixture
def compiled() -> None:
    """The small world's compiled operators, or the test is skipped."""
    if not extension.load("toybox"):
        pytest.skip("no compiler")


@pytest.fixture(scope="module")
def prior(tmp_path_factory):
    """A model of a few thousand weights."""
    import tiny_diffusion

    return tiny_diffusion.save_pipeline(tmp_path_factory.mktemp("prior"))


@pytest.fixture
def make(prior, tmp_path, monkeypatch):
    """See tiny_run.maker."""
    from tiny_run import maker

    return maker(prior, tmp_path, monkeypatch)


@pytest.fixture
def no_accelerator(monkeypatch):
    """A machine whose GPU, if it has one, is not seen."""
    from nerf import select_guidance

    monkeypatch.setattr(select_guidance, "has_accelerator", lambda device="auto": False)


@pytest.fixture
def trained(tmp_path):
    """See command_line.save_run."""
    from command_line import save_run

    return save_run(tmp_path)


@pytest.fixture(scope="session")
def emulated_libraries(tmp_path_factory):
    """A folder for TADPOLE_TEST_LIBRARIES: the CUDA kernels for the CPU, with the sanitizers."""
    import emulated

    return emulated.compile_extensions(extension.NAMES, tmp_path_factory.mktemp("libraries"), emulated.SANITIZERS)
