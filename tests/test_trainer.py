"""The loop: exact, resumable, and nothing changes that must not."""

from __future__ import annotations

import json
import os
import signal
import sys

import numpy as np
import pytest
import torch

from live_memory import LiveMemory
from nerf import build, checkpoint, commands, trainer
from nerf.config import Config
from nerf.runlog import RunLog
from tiny_run import STEPS, final, interrupt_at, logged, watch_steps, weights


@pytest.fixture
def every_step_logged(monkeypatch):
    monkeypatch.setattr(trainer, "LOG_INTERVAL", 1)


def test_the_same_command_gives_the_same_bytes(make):
    runs = []
    for folder in ("first", "second"):
        made = make(folder)
        assert made.train()
        runs.append(final(made))
    assert runs[0] == runs[1]


def test_another_seed_gives_another_object(make):
    one, other = make("one"), make("other", seed=1)
    one.train(), other.train()
    assert not all(torch.equal(a, b) for a, b in zip(weights(one).values(), weights(other).values(), strict=True))


@pytest.mark.parametrize("optim", ["adan", "adam"])
@pytest.mark.parametrize("step", [1, 3])
def test_an_interrupted_run_ends_with_the_bytes_of_an_unbroken_one(make, step, optim):
    unbroken = make("unbroken", optim=optim)
    assert unbroken.train()
    expected = final(unbroken)
    broken = make("broken", optim=optim)
    interrupt_at(broken, step)
    assert not broken.train()
    assert broken.step == step and final(broken, step)
    resumed = make("broken", optim=optim)
    assert resumed.step == step
    assert resumed.train()
    assert final(resumed) == expected


def test_the_stratified_renderer_resumes_exactly_too(make):
    options = dict(cuda_ray=False, backbone="vanilla", latent_iter_ratio=0.0)
    unbroken = make("unbroken", **options)
    unbroken.train()
    expected = final(unbroken)
    broken = make("broken", **options)
    interrupt_at(broken, 2)
    assert not broken.train()
    resumed = make("broken", **options)
    resumed.train()
    assert final(resumed) == expected


@pytest.mark.parametrize("first, then", [(True, False), (False, True)], ids=["packed first", "stratified first"])
def test_a_run_goes_on_and_is_shown_with_another_renderer(make, first, then):
    made = make(cuda_ray=first)
    interrupt_at(made, 2)
    made.train()
    resumed = make(cuda_ray=then)
    assert resumed.step == 2
    assert all(torch.equal(value, weights(made)[name]) for name, value in weights(resumed).items())
    assert resumed.train()
    shown = build.load_trained(Config().updated({**resumed.meta["config"], "cuda_ray": first}))
    average = resumed.ema.state_dict()["average"]
    assert all(torch.equal(p, average[name]) for name, p in shown.named_parameters())


def test_a_learning_rate_typed_anew_takes_effect_on_a_resumed_run(make):
    made = make()
    interrupt_at(made, 2)
    made.train()
    resumed = make(lr=2 * made.meta["config"]["lr"])
    resumed.train()
    rates = [[group["lr"] for group in run.optimizer.param_groups] for run in (made, resumed)]
    assert rates[1] == [2 * rate for rate in rates[0]]


def test_validation_does_not_change_what_is_learnt(make, monkeypatch):
    quiet = make("quiet")
    quiet.train()
    watched = make("quiet2")
    watched.save_interval = 2
    config = Config().updated(watched.meta["config"])
    watched.validate = lambda step: commands.validate(config, watched.renderer, step)
    watched.train()
    assert (watched.workspace / "validation" / "step_000002.png").exists()
    for name, value in weights(quiet).items():
        assert torch.equal(value, weights(watched)[name]), name


def test_checkpoints_sheets_and_turntables_have_intervals_of_their_own(make):
    """In epochs: a checkpoint after each, a sheet after every third, a turntable after every other; none at the end."""
    made = make(dataset_size_train=1, eval_interval=3, test_interval=2)
    config, kept = Config().updated(made.meta["config"]), []

    def validate(step):
        made.writer.wait()
        kept.append(checkpoint.find("out").name)
        commands.validate(config, made.renderer, step)

    made.validate = validate
    made.train()
    assert kept == [f"step_{step:06d}.pt" for step in range(1, STEPS)]
    assert [path.name for path in (made.workspace / "validation").iterdir()] == ["step_000003.png"]
    turntables = sorted(path.name for path in (made.workspace / "results").glob("*_rgb.mp4"))
    assert turntables == ["turntable_000002_rgb.mp4", "turntable_000004_rgb.mp4"]


def test_a_second_ctrl_c_is_not_waited_for(make):
    made, before = make(), signal.getsignal(signal.SIGINT)

    def twice(step):
        if step == 2:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    watch_steps(made, twice)
    with pytest.raises(KeyboardInterrupt):
        made.train()
    assert signal.getsignal(signal.SIGINT) is before
    assert checkpoint.find("out") is None


def test_the_diffusion_model_is_frozen(make):
    made = make()
    parts = [made.guidance["toybox"].unet, made.guidance["toybox"].vae]
    before = [{name: value.clone() for name, value in part.state_dict().items()} for part in parts]
    start = weights(made)
    assert made.train()
    for part, values in zip(parts, before, strict=True):
        assert not part.training
        assert all(torch.equal(value, values[name]) for name, value in part.state_dict().items())
        assert all(p.grad is None and not p.requires_grad for p in part.parameters())
    mine = {id(p) for group in made.optimizer.param_groups for p in group["params"]}
    assert mine == {id(p) for p in made.renderer.parameters() if p.requires_grad}
    assert any(not torch.equal(value, start[name]) for name, value in weights(made).items())


def test_every_part_of_the_field_learns(make):
    made = make(iters=8, latent_iter_ratio=0.0, albedo_iter_ratio=0.0, textureless_ratio=0.0)
    start = weights(made)
    made.train()
    still = [name for name, value in weights(made).items() if torch.equal(value, start[name])]
    assert not still


def test_the_log_has_a_line_for_each_look_and_finite_numbers(make, every_step_logged):
    made = make()
    made.train()
    lines = logged(made)
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    assert all(np.isfinite(list(line.values())).all() for line in lines)
    assert {"guidance", "entropy", "opacity_mean", "samples_per_second", "toybox_timestep"} <= set(lines[-1])
    assert list((made.workspace / "run").glob("events*"))


def test_without_tensorboard_the_log_is_written_and_one_line_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with RunLog(tmp_path, 0) as log:
        log.write(1, {"loss": 0.5})
    assert (tmp_path / "log.jsonl").read_text() == '{"step": 1, "loss": 0.5}\n'
    (line,) = capsys.readouterr().err.splitlines()
    assert "tensorboardX" in line and line.endswith("pip install -r requirements.txt")


def test_a_run_that_is_wound_back_keeps_the_lines_after_it_aside(make, every_step_logged):
    made = make()
    made.save_interval = 2
    made.train()
    before = logged(made)
    with open("out/log.jsonl", "a") as file:
        file.write('{"step": 7, "gui')  # killed while writing
    again = make(ckpt="out/checkpoints/step_000004.pt")
    assert again.step == 4
    interrupt_at(again, 5)
    again.train()
    assert [line["step"] for line in logged(again)] == [1, 2, 3, 4, 5]
    assert logged(again)[:4] == before[:4]
    assert checkpoint.find("out").name == "step_000005.pt"
    aside = (again.workspace / "log.jsonl.old").read_text().splitlines()
    assert [json.loads(line) for line in aside[:2]] == before[4:] and aside[2:] == ['{"step": 7, "gui']


def test_a_run_begun_anew_with_old_weights_keeps_the_old_log_aside(make, every_step_logged):
    made = make()
    made.train()
    old = (made.workspace / "log.jsonl").read_text()
    for _ in range(2):
        with RunLog(made.workspace, make(ckpt="latest_model").step):
            pass
        assert (made.workspace / "log.jsonl").read_text() == ""
        assert (made.workspace / "log.jsonl.old").read_text() == old


def test_only_the_last_two_checkpoints_stay(make):
    made = make()
    made.save_interval = 1
    made.train()
    assert sorted(path.name for path in (made.workspace / "checkpoints").iterdir()) == [
        "step_000005.pt",
        "step_000006.pt",
    ]


@pytest.mark.parametrize("optim", ["adan", "adam"])
def test_a_long_run_holds_no_more_memory_than_a_short_one(make, optim):
    trainer, held = make(iters=20, latent_iter_ratio=0.0, albedo_iter_ratio=0.0, optim=optim), []
    with LiveMemory() as live:
        for _ in range(20):
            trainer.train_step()
            held.append(live.live)
    assert live.peak > held[5] >= held[-1] > 0
