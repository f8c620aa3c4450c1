"""python main.py in a process of its own: from a sentence to video and mesh, and what interrupts it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

import main
import tiny_diffusion
from nerf import checkpoint
from nerf.config import ROOT

LIMIT = 300  # seconds a process may take before the test gives up; it needs about 8
SMALL = (
    "--guidance_scale 7.5 --iters 6 --w 16 --h 16 --batch_size 1 --num_levels 4 --log2_hashmap_size 8 "
    "--base_resolution 4 --desired_resolution 32 --occupancy_resolution 16 --max_steps 64 --num_steps 8 "
    "--upsample_steps 8 --dataset_size_train 3 --dataset_size_valid 2 --video_size 16 --frames 2 "
    "--mcubes_resolution 16 --texture_size 32 --decimate_target 200 --device cpu"
).split()
RESULTS = [f"results/turntable_{kind}.mp4" for kind in ("rgb", "depth", "normal")]
MESH = [f"mesh/{name}" for name in ("mesh.obj", "mesh.mtl", "albedo.png", "mesh.glb")]
LEFT_BEHIND = ["config.json", "run.json", "log.jsonl", "checkpoints/step_000006.pt", "validation/step_000003.png"]


@pytest.fixture(scope="module")
def prior(tmp_path_factory):
    return tiny_diffusion.save_pipeline(tmp_path_factory.mktemp("prior"))


def start(workspace, *argv, environment=None):
    command = [sys.executable, "main.py", "--workspace", str(workspace), *map(str, argv)]
    environment = environment or {**os.environ, "HF_HUB_OFFLINE": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True)


def call(workspace, *argv, environment=None):
    """Exit status, stdout and stderr."""
    process = start(workspace, *argv, environment=environment)
    out, err = process.communicate(timeout=LIMIT)
    return process.returncode, out, err


def train(workspace, prior, *argv, environment=None):
    return call(workspace, "--text", "a frog", "--toybox_dir", prior, *SMALL, *argv, environment=environment)


def missing(workspace, names):
    return [name for name in names if not (workspace / name).is_file() or not (workspace / name).stat().st_size]


@pytest.fixture(scope="module")
def trained(prior, tmp_path_factory):
    workspace = tmp_path_factory.mktemp("trained") / "out"
    return workspace, train(workspace, prior)


def test_a_sentence_becomes_a_video_and_a_mesh(trained):
    workspace, (status, out, err) = trained
    assert status == 0, err
    assert not missing(workspace, [*LEFT_BEHIND, *RESULTS, *MESH])
    assert list((workspace / "run").glob("events*"))
    assert "guidance: toybox" in err and "training 'a frog' for 6 steps on cpu" in out
    assert out.splitlines()[-1].startswith("done: ") and "Traceback" not in err and "Warning" not in err
    assert json.loads((workspace / "run.json").read_text())["step"] == 6


@pytest.mark.parametrize(
    "command, names",
    [
        ("--test", RESULTS),
        ("--test --ops torch", RESULTS),  # another renderer than the one that trained it
        ("--six_views", ["results/six_views.png", "results/six_views_front.png", "results/six_views_bottom.png"]),
        ("--save_mesh", MESH),
    ],
)
def test_a_trained_run_is_shown_and_exported_without_typing_its_options_again(trained, command, names):
    workspace, _ = trained
    for name in names:
        (workspace / name).unlink(missing_ok=True)
    status, _, err = call(workspace, *command.split())
    assert status == 0, err
    assert not missing(workspace, names)
    assert "made for 'a frog'" in err


@pytest.mark.parametrize("argv, environment", [(["--ops", "torch"], {}), ([], {"TADPOLE_OPS": "torch"})])
def test_the_torch_references_do_the_whole_job(prior, tmp_path, argv, environment):
    environment = {**os.environ, **environment, "PATH": str(tmp_path)}
    status, out, err = train(tmp_path, prior, *argv, environment=environment)
    assert status == 0, err
    assert "operators in plain torch" in out and "warning" not in err
    assert not missing(tmp_path, [*LEFT_BEHIND, *RESULTS, *MESH])


@pytest.mark.parametrize(
    "compiler, message",
    [({"PATH": "/no/such"}, "no C++ compiler"), ({"CXX": "/bin/false"}, "failed")],
    ids=["none", "broken"],
)
def test_without_a_compiler_one_line_says_so_and_the_job_is_done(prior, tmp_path, compiler, message):
    # Libraries beside the packages (scripts/install_ext.sh) would need no compiler either.
    if list(ROOT.glob("*/_C.*.so")):
        pytest.skip("extensions are installed ahead of time")
    environment = {name: value for name, value in os.environ.items() if name not in ("CXX", "TADPOLE_OPS")}
    environment |= {"TADPOLE_CACHE": str(tmp_path / "cache"), **compiler}
    status, out, err = train(tmp_path / "out", prior, environment=environment)
    assert status == 0, err
    warnings = [line for line in err.splitlines() if "warning" in line.lower()]
    assert len(warnings) == 1 and message in warnings[0]
    assert not missing(tmp_path / "out", [*LEFT_BEHIND, *RESULTS, *MESH])


@pytest.mark.parametrize(
    "argv, saved, words",
    [
        ([], False, "interrupted"),
        ([], True, "interrupted; the same command goes on from {}"),
        (["--ckpt", "scratch"], True, "interrupted; the same command with --ckpt latest goes on from {}"),
    ],
)
def test_ctrl_c_says_what_there_is_to_go_on_from(tmp_path, monkeypatch, capsys, argv, saved, words):
    meta = {"step": 3, "text": "a frog", "architecture": {}}
    path = checkpoint.save(tmp_path / "checkpoints", {}, meta) if saved else None
    monkeypatch.setattr(main, "run", failing(KeyboardInterrupt))
    status = main.main(["--text", "a frog", "--guidance", "toybox", "--workspace", str(tmp_path), *argv])
    assert (status, capsys.readouterr().err) == (130, f"main.py: {words.format(path)}\n")


def test_a_missing_package_is_one_line_that_says_how_to_install_it(monkeypatch, capsys):
    monkeypatch.setattr(main.cli, "parse", failing(ModuleNotFoundError("No module named 'diffusers'")))
    assert main.main([]) == 1
    line = "main.py: No module named 'diffusers': pip install -r requirements.txt\n"
    assert capsys.readouterr().err == line


def failing(error):
    def fail(*_):
        raise error

    return fail


def test_ctrl_c_saves_and_the_same_command_finishes(prior, tmp_path):
    command = ["--text", "a frog", "--toybox_dir", prior, *SMALL, "--iters", "150", "--dataset_size_train", "1000"]
    command += ["--lambda_opacity", "0", "--lr", "1e-3"]  # this prior is random: it does not hold on to an object
    process = start(tmp_path, *command)
    log, begin = tmp_path / "log.jsonl", time.monotonic()
    while not (log.exists() and log.stat().st_size):  # ten steps are done
        assert process.poll() is None and time.monotonic() < begin + LIMIT
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 130, err
    assert "Traceback" not in err and "the same command goes on" in err.splitlines()[-1]
    (saved,) = (tmp_path / "checkpoints").iterdir()
    step = int(saved.stem.removeprefix("step_"))
    assert 10 <= step < 150 and missing(tmp_path, RESULTS) == RESULTS

    status, out, err = call(tmp_path, *command)
    assert status == 0, err
    assert f"from step {step} of 150 steps" in out
    assert not missing(tmp_path, ["checkpoints/step_000150.pt", *RESULTS, *MESH])
    steps = [json.loads(line)["step"] for line in log.read_text().splitlines()]
    assert steps == list(range(10, 151, 10))


@pytest.mark.parametrize(
    "given, expected",
    [
        ({}, ("passive", "1000")),
        ({"OMP_WAIT_POLICY": "active"}, ("active", "None")),
        ({"GOMP_SPINCOUNT": "7"}, ("passive", "7")),
    ],
)
def test_threads_wait_as_main_says_unless_the_user_does(given, expected):
    code = "import main, os; print(os.environ['OMP_WAIT_POLICY'], os.environ.get('GOMP_SPINCOUNT'))"
    rest = {key: value for key, value in os.environ.items() if key not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={**rest, **given}, capture_output=True, text=True, check=True
    )
    assert tuple(done.stdout.split()) == expected
