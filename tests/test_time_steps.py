"""scripts/time_steps.py: whole steps, as a run takes them, and what they take."""

from __future__ import annotations

import json
import sys
from itertools import accumulate
from types import SimpleNamespace

import pytest
import torch

from scripting import load_script
from tiny_run import SMALL, as_words


@pytest.fixture(scope="module")
def script():
    return load_script("time_steps")


@pytest.fixture
def call(script, prior, monkeypatch, tmp_path):
    """call(words, option=value, ...): what it found, of a tiny run with these options for main.py."""

    def call(*words, **options):
        target = tmp_path / "found.json"
        typed = as_words({**SMALL, "toybox_dir": str(prior), **options}, "workspace", "iters")
        monkeypatch.setattr(sys, "argv", ["x", *words, "--json", str(target), "--", "--guidance", "toybox", *typed])
        script.main()
        return json.loads(target.read_text())

    return call


def test_each_phase_has_its_rate_and_its_samples(call, monkeypatch, script, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(script, "WARM", 10)
    took = accumulate([0.0, 5.0] + [1.0, 2.0] * 3)  # the first span takes 5 seconds, the others 1 or 2
    monkeypatch.setattr(script, "time", SimpleNamespace(perf_counter=lambda: next(took)))
    found = call("--steps", "70", latent_iter_ratio=0.5, albedo_iter_ratio=1.0)
    phases = found["phases"]  # spans begin at 10, 20, ... 60; that at 30 has both phases
    assert {name: (row["steps_per_second"], row["least"], row["most"]) for name, row in phases.items()} == {
        "latent": (7.5, 5.0, 10.0),
        "albedo": (5.0, 5.0, 10.0),
    }
    assert all(row["samples"] > 0 for row in phases.values()) and found["skipped"] == 0.0
    assert found["device"] == "cpu" and list(found["guidance"]) == ["toybox"] and "calls" not in found
    assert not (tmp_path / "out").exists() and not (tmp_path / "workspace").exists()


@pytest.mark.parametrize(
    "words, message",
    [
        (["--steps", "60"], "--steps needs 70 at least, got 60"),
        (["--cap", "6"], "--cap emulates a smaller GPU, and the device is cpu: leave it out"),
        (["--steps", "100", "--", "--hidden_dim", "no"], "--hidden_dim needs a number, got 'no'"),
    ],
)
def test_what_cannot_be_measured_is_one_line(script, monkeypatch, capsys, words, message):
    words = [*words, *([] if "--" in words else ["--"]), "--guidance", "toybox", "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["time_steps.py", *words])
    with pytest.raises(SystemExit, match="2"):
        script.main()
    assert capsys.readouterr().err.splitlines()[-1] == f"time_steps.py: error: {message}"


def test_what_cuda_takes_counts_as_on_the_smaller_card(script, monkeypatch):
    asked = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (139.5e9, 140e9))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *of: asked.append(of))
    script.limit(torch.device("cuda", 0), 6.0)
    assert asked == [(pytest.approx(5.5 / 140), torch.device("cuda", 0))]
    with pytest.raises(ValueError, match="--cap needs more than the 0.5 GB that are taken, got 0.5"):
        script.limit(torch.device("cuda", 0), 0.5)
