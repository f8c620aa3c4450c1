"""scripts/compare_gradients.py: one approximation at a time, beside a run that does not notice."""

from __future__ import annotations

import json
import sys

import pytest
import torch

from scripting import load_script
from tiny_run import SMALL, as_words, weights


@pytest.fixture(scope="module")
def script():
    return load_script("compare_gradients")


def small(prior, **others) -> list[str]:
    return as_words({**SMALL, "toybox_dir": str(prior), "latent_iter_ratio": 0.0, "albedo_iter_ratio": 1.0, **others})


def test_each_row_says_what_its_approximation_does(script, prior, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(script, "default_precision", lambda device: "fp32")
    found = tmp_path / "found.json"
    words = ["x", "--steps", "1", "4", "--json", str(found), "--", *small(prior), "--bg_radius", "-1"]
    monkeypatch.setattr(sys, "argv", words)
    script.main()
    said = capsys.readouterr()
    half = [name for name, mode in script.MODES.items() if mode.half]
    assert len(half) == 2 and f"left out, without half precision here: {', '.join(half)}" in said.err
    rows = json.loads(found.read_text())["rows"]
    assert [(row["mode"], row["step"]) for row in rows] == [
        (name, step) for step in (1, 4) for name in script.MODES if name not in half
    ]
    worst = {
        name: min(row["cosine"] for row in rows if row["mode"] == name) for name in script.MODES if name not in half
    }
    assert worst["torch's operators"] > 1 - 1e-6
    assert 0.9 < worst["UNet in 8 bits"] < 1 - 1e-9
    assert 0.5 < worst["64 samples a ray"] < 1 - 1e-9
    assert 0.5 < worst["lit, normals over 0.06"] < 1 - 1e-9
    assert worst["another seed"] < min(cosine for name, cosine in worst.items() if name != "another seed")
    assert f"| UNet in 8 bits | {worst['UNet in 8 bits']:.5f} | " in said.out


def test_a_run_that_is_looked_at_learns_the_same(script, prior, tmp_path, monkeypatch):
    trained, build = [], script.build.build_trainer
    monkeypatch.setattr(script.build, "build_trainer", lambda *of: (trained.append(build(*of)), trained[-1])[1])
    ends = []
    for steps in ([5], [0, 2, 5]):
        script.compare("a frog", steps, {"torch's operators": script.MODES["torch's operators"]}, small(prior))
        ends.append(trained[-3].renderer.state_dict())  # the run; then what is exact, then the mode
    assert ends[0].keys() == ends[1].keys() and all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_a_gradient_is_taken_with_the_weights_that_it_is_given(script, prior, tmp_path):
    words = ["--workspace", str(tmp_path), *small(prior)]
    run, other, steady = script.Trained(words), script.Trained(words), script.Trained(words, steady=True)
    for _ in range(3):
        run.trainer.train_step()
    before = other.gradient(3, other.trainer.renderer.state_dict())
    state = run.trainer.renderer.state_dict()
    assert torch.equal(run.gradient(3, state), other.gradient(3, state))
    assert not torch.equal(before, other.gradient(3, state))
    assert steady.trainer.guidance["toybox"].vae_dtype == torch.float32


def test_the_gradient_of_a_step_is_the_one_that_is_followed(make):
    made = make(optim="adam", update_extra_interval=16)
    made.train_step()  # which looks at the occupancy, too, and would do so again
    before = weights(made)
    made.gradients(made.schedule.plan(made.step))
    taken = {name: p.grad.clone() for name, p in made.renderer.named_parameters() if p.grad is not None}
    assert taken and made.step == 1 and all(torch.equal(p, before[name]) for name, p in weights(made).items())
    made.train_step()
    followed = {name: p.grad for name, p in made.renderer.named_parameters() if p.grad is not None}
    assert followed.keys() == taken.keys() and all(torch.equal(followed[name], taken[name]) for name in taken)
    assert not all(torch.equal(p, before[name]) for name, p in weights(made).items())


def test_a_plan_that_does_not_exist_is_said(script, prior, tmp_path):
    with pytest.raises(ValueError, match="no plan 'half a UNet'"):
        script.Trained(["--workspace", str(tmp_path), *small(prior)], plan="half a UNet")


def test_a_step_of_a_small_gradient_counts_little_in_what_is_off(script):
    exact = torch.tensor([3.0, 4.0])
    large, small = (
        script.alike(exact + torch.tensor([0.0, 0.5]), exact),
        script.alike(0.02 * exact.flip(0), 0.02 * exact),
    )
    assert large == pytest.approx({"cosine": 0.99846, "length": 5.40833, "exact": 5.0, "off": 0.5}, abs=1e-5)
    assert small["cosine"] == pytest.approx(0.96)
    rows = [{"mode": "half", **large}, {"mode": "half", **small}]
    assert "| half | 0.96000 | 0.97923 | 10.01% |" in script.table(rows)


@pytest.mark.parametrize(
    "words, message",
    [
        (["--steps", "3", "6"], "--steps needs steps of a run, 0 to 5, got [3, 6]"),
        (["--steps", "3", "--", "--fp32"], "unknown option --fp32"),
    ],
)
def test_what_cannot_be_compared_is_one_line(script, monkeypatch, capsys, words, message):
    monkeypatch.setattr(sys, "argv", ["x", *words, *([] if "--" in words else ["--"]), "--iters", "6"])
    with pytest.raises(SystemExit, match="2"):
        script.main()
    assert message in capsys.readouterr().err.splitlines()[-1]
