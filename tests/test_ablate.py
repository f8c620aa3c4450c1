"""scripts/ablate.py: rows of one prior in one table, those of earlier calls included."""

from __future__ import annotations

import json
import sys

import pytest

from scripting import load_script


@pytest.fixture(scope="module")
def script():
    return load_script("ablate")


def test_rows_of_an_earlier_call_stay_and_those_of_another_prior_are_refused(script, tmp_path, monkeypatch, capsys):
    asked, path = [], tmp_path / "found.json"
    row = dict(text="a frog", iou=0.8)
    monkeypatch.setattr(script.evaluate, "evaluate", lambda options: (asked.append(options) or [row], {}))
    for name in ("bf16", "half the steps"):
        monkeypatch.setattr(sys, "argv", ["x", "--runs", str(tmp_path), "--json", str(path), "--only", name])
        script.main()
    assert [each.runs.name for each in asked] == ["bf16", "half_the_steps"] and asked[0].rest[0] == "--fp16"
    found = json.loads(path.read_text())
    assert list(found) == ["half the steps", "bf16"] and found["bf16"]["iou"] == 0.8
    assert "| bf16 | 0.800 | " in capsys.readouterr().out
    path.write_text(json.dumps({"bf16": {**found["bf16"], "prior": "another"}}))
    with pytest.raises(SystemExit, match="2"):
        script.main()
    assert "rows of another prior: bf16" in capsys.readouterr().err
