"""scripts/compare_priors.py: priors that differ in one thing are trained, asked in 2D and 3D, and put into a table."""

from __future__ import annotations

import argparse
import json
import sys

import pytest

from scripting import load_script


@pytest.fixture(scope="module")
def script():
    return load_script("compare_priors")


EARLIER = dict(all=dict(name=1, colour=1, worn=1, view=1), autoencoder_psnr=30.0)
ROW = dict(text="a frog", iou=0.8, colour=10.0, hit=True, janus=False, fscore=0.6, normal=20.0, train_seconds=60.0)


def test_a_prior_is_trained_as_its_row_says_and_asked_in_both_ways_once(script, tmp_path, monkeypatch, capsys):
    asked, scripts = [], []
    really = script.script

    def run(name, *words):
        scripts.append(name)
        really(name, *words, "--batch", "2")

    monkeypatch.setattr(script, "script", run)
    monkeypatch.setattr(script.evaluate, "evaluate", lambda options: (asked.append(options) or [ROW], {}))
    sizes = ["--minutes", "0.001", "--solids", "44", "--samples", "2"]
    places = [f"--work={tmp_path / 'work'}", f"--runs={tmp_path / 'runs'}", f"--json={tmp_path / 'found.json'}"]
    monkeypatch.setattr(sys, "argv", ["x", *sizes, *places, "--only", "anew, epsilon", "--", "--iters", "7"])
    earlier = dict(training=dict(steps=9, steps_before=0), pictures=EARLIER, objects=script.evaluate.means([ROW]))
    base = script.base_of(argparse.Namespace(minutes=0.001, solids=44, samples=2, vae_minutes=8.0))
    (tmp_path / "found.json").write_text(json.dumps({"anew, autoencoder too": {"base": "another", **earlier}}))
    with pytest.raises(SystemExit, match="2"):
        script.main()
    assert "rows of another prior or of other sizes: anew, autoencoder too" in capsys.readouterr().err
    (tmp_path / "found.json").write_text(json.dumps({"anew, autoencoder too": {"base": base, **earlier}}))
    script.main()
    found = json.loads((tmp_path / "found.json").read_text())
    assert list(found) == ["anew, epsilon", "anew, autoencoder too"]  # what was measured before stays
    found = found["anew, epsilon"]
    assert found["training"]["steps"] > 0 and found["pictures"]["samples"] == 2 and found["objects"]["iou"] == 0.8
    prior = tmp_path / "work" / base / "anew,_epsilon" / "prior"
    assert json.loads((prior / "scheduler" / "scheduler_config.json").read_text())["prediction_type"] == "epsilon"
    assert json.loads((prior / "training.json").read_text())["init"] == "prior"
    kept = json.loads((prior / "training.json").read_text())["steps"]
    assert asked[0].rest[:2] == ["--toybox_dir", str(prior)] and asked[0].rest[-2:] == ["--iters", "7"]
    assert asked[0].runs == tmp_path / "runs" / "priors" / base / "anew,_epsilon"

    script.main()
    assert scripts == ["train_toybox.py", "evaluate_prior.py", "train_toybox.py"]  # the last has nothing left to do
    assert json.loads((prior / "training.json").read_text())["steps"] == kept
    assert "| anew, epsilon | " in capsys.readouterr().out


def test_a_row_may_show_the_prior_of_another_in_another_way(script, tmp_path, monkeypatch):
    calls, asked = [], []
    monkeypatch.setattr(script, "script", lambda name, *words: calls.append(list(map(str, words))))
    monkeypatch.setattr(script.evaluate, "evaluate", lambda options: (asked.append(options) or [ROW], {}))
    monkeypatch.setattr(script, "base_of", lambda options: "base")
    place = tmp_path / "base" / "textureless_15_%"
    (place / "prior").mkdir(parents=True)
    (place / "prior" / "training.json").write_text("{}")
    (place / "pictures.json").write_text("{}")
    words = ["x", "--work", str(tmp_path), "--only", "textureless 15 %, shown from the middle"]
    monkeypatch.setattr(sys, "argv", words)
    monkeypatch.setattr(script, "table", lambda found: "")
    script.main()
    assert calls[0][-2:] == ["--textureless", "0.15"] and str(place / "prior") in calls[0]
    assert asked[0].rest[-4:] == ["--albedo_iter_ratio", "0.5", "--textureless_ratio", "1"]


def test_the_table_has_shares_in_2d_and_means_in_3d(script):
    shares = {"name": 0.9, "colour": 0.955, "worn": None, "view": 0.8}
    steps = {"steps": 112, "steps_before": 100}
    found = {"epsilon": dict(training=steps, pictures={"all": shares, "autoencoder_psnr": 30.18})}
    found["epsilon"]["objects"] = script.evaluate.means([ROW])
    assert "| epsilon | 12 | 30.2 | 90% | 96% | - | 80% | 0.800 | 10.0 | 100% | 0.600 | 20 | 1 |" in script.table(found)
