"""Shared by all tests: the devices to run on, the number of threads, and TADPOLE_TEST_LIBRARIES, a folder of <name>.so
that serve in place of the extensions' own (test_cuda_emulated.py)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from filelock import FileLock

from common.openmp import wait_briefly

wait_briefly()  # tests run side by side
import torch  # noqa: E402

import extension  # noqa: E402
from common import libraries  # noqa: E402
from fusedfield import dispatch  # noqa: E402

FOLDER = os.environ.get("TADPOLE_TEST_LIBRARIES")
LIBRARIES = sorted(Path(FOLDER).glob("*.so")) if FOLDER else []
for library in LIBRARIES:
    assert libraries.use_library(library.stem, library), f"{library} does not load"
if LIBRARIES:  # kernels for CUDA
    dispatch.SERVES["cpu"] = dispatch.SERVES["cuda"]

if "OMP_NUM_THREADS" in os.environ:
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

torch.backends.cudnn.allow_tf32 = False  # results are compared with those of a CPU
LONGEST = ["test_pretended_gpu", "test_cuda_emulated", "test_train_toybox"]  # minutes each
DEVICES = ["cpu", *([pytest.param("cuda", marks=pytest.mark.cuda)] if torch.cuda.is_available() else [])]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest begin, so that none of them is alone at the end."""
    items.sort(key=lambda item: item.path.stem not in LONGEST)


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

    ours = tmp_path_factory.getbasetemp()  # with pytest -n, this worker's in the folder of all
    folder = (ours.parent if "PYTEST_XDIST_WORKER" in os.environ else ours) / "libraries"
    with FileLock(f"{folder}.lock"):  # compiled by the first who comes
        if not folder.exists():
            made = tmp_path_factory.mktemp("made")
            emulated.compile_extensions(extension.NAMES, made, emulated.SANITIZERS).rename(folder)
    return folder
