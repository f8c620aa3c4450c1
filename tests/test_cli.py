"""The command line: what was typed wins."""

import os
import re
import subprocess
import sys
import time
from collections import namedtuple

import pytest

import main
from command_line import FROG, parse
from nerf import checkpoint, cli, select_guidance
from nerf.config import ROOT, Config, options
from nerf.presets import PRESETS
from nerf.watch import OutOfMemory

pytestmark = pytest.mark.usefixtures("no_accelerator")


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
    file.write_text(file.read_text(), encoding="utf-8-sig")  # as some editors save it
    assert cli.parse(["--file", str(file), "--iters", "9"]).config == config
    assert (config.training.iters, config.training.batch_size, config.camera.radius_range) == (9, 3, (2.0, 3.0))


def test_options_without_meaning_are_accepted_and_say_so():
    request = cli.parse([*FROG, "--taichi_ray", "--backbone", "grid_taichi", "--dont_override_stuff", "--ckpt", "best"])
    for name in ("--taichi_ray", "--backbone grid_taichi", "--dont_override_stuff", "--ckpt best"):
        assert sum(note.startswith(name) for note in request.notes) == 1
    for name, reason in cli.NO_MEANING.items():
        assert re.search(rf"--{name} +{reason}", cli.build_parser().format_help())


def test_options_that_change_nothing_here_say_so():
    def notes(*argv):
        return [note.split(" ")[0] for note in cli.parse([*FROG, *argv]).notes if note.startswith("--")]

    assert notes("--lambda_orient", "5", "--background", "network") == ["--lambda_orient", "--background"]
    shaded = ("--albedo_iter_ratio", "0.5", "--bg_radius", "1")
    assert notes("--lambda_orient", "5", "--background", "network", *shaded) == []


def test_taichi_ray_marches_packed_rays_whatever_the_preset():
    assert parse("-O2").marching.cuda_ray is False
    assert parse("-O2", "--taichi_ray").marching.cuda_ray is True


def test_the_help_of_a_preset_says_all_that_it_sets():
    for name in ("O", "O2"):
        said = options()[name].metadata["help"].removeprefix("preset: ").split()
        assert cli.parse([*FROG, *said]).config == cli.parse([*FROG, *cli.as_typed(PRESETS[name]).split()]).config


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


def test_debug_shows_the_traceback_typed_or_in_a_file(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="--iters"):
        main.main(["--iters", "0", "--debug"])
    (tmp_path / "args.txt").write_text("--debug --text 'a frog' --toybox_dir no/such")
    with pytest.raises(ValueError, match="--toybox_dir"):
        main.main(["--file", str(tmp_path / "args.txt"), "--workspace", str(tmp_path / "out")])


@pytest.mark.parametrize(
    "error",
    [MemoryError("Unable to allocate 9 TiB"), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")],
)
def test_too_little_memory_is_one_line_with_a_way_out(monkeypatch, capsys, error):
    def fail(argv):
        raise error

    monkeypatch.setattr(cli, "parse", fail)
    assert main.main([]) == main.FAILURE
    assert capsys.readouterr().err.startswith("main.py: out of memory: use smaller --w")


def test_what_stops_a_run_is_one_line_and_a_fault_of_this_program_is_none(capsys):
    assert main.explain(OutOfMemory("out of memory in step 3: ...")) == main.FAILURE
    assert capsys.readouterr().err == "main.py: out of memory in step 3: ...\n"
    assert main.explain(ZeroDivisionError()) is None


def test_a_reader_of_the_words_may_stop_early():
    shell = f"set -o pipefail; {sys.executable} main.py words | head -1"
    done = subprocess.run(["bash", "-c", shell], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout == "Toybox understands\n"
