"""The path of a GPU, all of it: tensors that say they lie on one, and its kernels under emulation."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import emulated
import extension
import pretended_gpu
import tiny_diffusion
from tiny_run import SMALL, as_words

SCRIPT = Path(__file__).with_name("on_pretended_gpu.py")
TINY = SMALL | {"iters": 3, "w": 8, "h": 8, "max_steps": 32, "hidden_dim": 32, "video_size": 16}
PACKED = {"cuda_ray": True, "update_extra_interval": 2}

impossible = not emulated.available() or torch.version.cuda is not None
pytestmark = pytest.mark.skipif(impossible, reason="no g++, or a CUDA build of torch, which knows what a GPU is")


@pytest.fixture(scope="module")
def device(tmp_path_factory):
    try:
        return pretended_gpu.compile_device(tmp_path_factory.mktemp("device") / "device.so", emulated.COMPILER)
    except subprocess.CalledProcessError:
        if torch.__version__.startswith("2.13."):  # which it was written for: it reaches into torch
            raise
        pytest.skip(f"device.cpp does not fit torch {torch.__version__}")


@pytest.fixture(scope="module")
def machine(device, emulated_libraries):
    environment = emulated.sanitized()
    environment["LD_PRELOAD"] += f" {device}"
    environment |= {"TADPOLE_TEST_LIBRARIES": str(emulated_libraries), "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = str(SCRIPT.parents[1])
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, str(SCRIPT)], env=environment, text=True, **pipes) as process:
        yield process


@pytest.fixture
def on_gpu(machine, tmp_path):
    def run(*arguments):
        print(json.dumps([str(tmp_path), *arguments]), file=machine.stdin, flush=True)
        status = machine.stdout.readline()
        said = (tmp_path / "said.txt").read_text()
        assert status == "0\n", said[-7000:]
        return said

    return run


def test_a_mixture_of_devices_is_an_error_and_what_is_waited_for_counted(on_gpu, tmp_path):
    on_gpu("faults", "faults.json")
    *counts, mixed, scalar, device = json.loads((tmp_path / "faults.json").read_text()).values()
    assert counts == [1, 1, 1, 1, 1, 0]
    assert "all tensors to be on the same device" in mixed and scalar == 0 and device == "cuda"


ENDS = {"nonzero nerf/fields/rays.py": 1}  # how many samples are reached
ALBEDO, SHADED = ({"albedo_iter_ratio": share, "latent_iter_ratio": 0.0} for share in (1.0, 0.0))
SMOOTH = {"lambda_3d_normal_smooth": 1e-3, "normal_mode": "analytic"}
LATENTS = {"cuda_ray": False, "latent_iter_ratio": 1.0, "backbone": "vanilla", "distill": "ism"}


@pytest.mark.parametrize(
    "options, waits, tries",
    [
        pytest.param(PACKED | ALBEDO, {}, 1, id="plain"),
        pytest.param(PACKED | SHADED | {"fp16": True, "batch_size": 2}, {}, 1, id="shaded in bf16"),
        pytest.param(PACKED | SHADED | SMOOTH, {}, 1, id="smooth"),
        pytest.param(PACKED | SHADED, {}, 3, id="too little room"),
        pytest.param(PACKED | ALBEDO | {"hidden_dim": 16}, ENDS, 1, id="not on tensor cores"),
        pytest.param(ALBEDO | {"cuda_ray": False}, {}, 1, id="stratified"),
        pytest.param(LATENTS, {}, 1, id="latents of a vanilla field"),
    ],
)
def test_a_step_has_the_losses_of_the_cpu_and_no_other_waits(on_gpu, make, prior, tmp_path, options, waits, tries):
    config = TINY | {"toybox_dir": str(prior)} | options
    made = make(**config)
    expected = [{name: float(term) for name, term in made.train_step()[1].items()} for _ in range(3)]
    on_gpu("steps", "steps.json", json.dumps(config | {"device": "cuda"}), *["tight"] * (tries > 1))
    rows = json.loads((tmp_path / "steps.json").read_text())
    for row, terms in zip(rows, expected, strict=True):
        # Drawn for each sample, of which a CPU has those alone that are reached.
        row["terms"].pop("3d_normal_smooth", None), terms.pop("3d_normal_smooth", None)
        assert row["terms"] == pytest.approx(terms, rel=1e-3, abs=1e-4)
    # A recorded UNet is compared once; ISM has two, for one pass takes twice the batch.
    compared = sum(row["waits"].pop("_local_scalar_dense guidance/graphs.py", 0) for row in rows)
    assert compared == (2 if "distill" in options else 1)
    assert rows[1]["waits"] == rows[2]["waits"] == waits  # the last looks at the occupancy, too
    assert [row["tries"] for row in rows] == [1, tries, tries]  # at first the rows are counted


def test_stable_diffusions_own_autoencoder_passes_its_gradient_on(on_gpu, make, tmp_path):
    prior = tiny_diffusion.save_pipeline(tmp_path / "prior", "AutoencoderKL")
    config = TINY | PACKED | ALBEDO | {"toybox_dir": str(prior), "iters": 2}
    made = make(**config)
    expected = [float(made.train_step()[1]["guidance"]) for _ in range(2)]
    on_gpu("steps", "steps.json", json.dumps(config | {"device": "cuda"}))
    rows = json.loads((tmp_path / "steps.json").read_text())
    assert [row["terms"]["guidance"] for row in rows] == pytest.approx(expected, rel=1e-3)
    assert rows[1]["waits"] == {}


def test_a_grid_that_has_warmed_up_is_looked_at_without_waiting(on_gpu, prior, tmp_path):
    config = TINY | PACKED | ALBEDO | {"toybox_dir": str(prior), "device": "cuda", "update_extra_interval": 1}
    on_gpu("steps", "steps.json", json.dumps(config), "warm")
    rows = json.loads((tmp_path / "steps.json").read_text())
    waits = [{where for where in row["waits"] if "guidance/graphs.py" not in where} for row in rows]  # compared once
    assert waits == [{"raymarching"}, set(), set()] and all(row["terms"]["opacity_mean"] > 0 for row in rows)


def test_the_command_makes_a_video_and_a_mesh_and_goes_on(on_gpu, prior, tmp_path):
    options = as_words(TINY, "workspace", "device")
    options += ["--text", "a frog", "--guidance", "toybox", "--toybox_dir", str(prior), "--device", "cuda", "-O"]
    said = on_gpu("main", *options, "--save_mesh", "--save_guidance")
    assert "comparing the operators with their references" in said and "operators compiled" in said
    assert "steps on cuda:0" in said
    out = tmp_path / "workspace"
    assert (out / "results" / "turntable_rgb.mp4").stat().st_size and (out / "mesh" / "mesh.glb").stat().st_size
    assert "comparing" not in on_gpu("main", *options, "--iters", "4")
    assert (out / "checkpoints" / "step_000004.pt").exists()


def test_doctor_compares_every_operator_on_the_gpu(on_gpu):
    said = on_gpu("main", "doctor")
    assert all(f"ok   {name}: native on cuda, within " in said for name in extension.NAMES)
