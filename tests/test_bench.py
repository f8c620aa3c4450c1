"""scripts/bench.py: what is measured runs, and a figure is what it says."""

from __future__ import annotations

import functools
import json
import re
import sys

import pytest
import torch

import extension
from roofline import Roofline
from scripting import load_script

CPU = torch.device("cpu")
LIMITS = Roofline(gflops=200.0, gflops_bf16=400.0, gigabytes=30.0, gigarows=0.5)


@pytest.fixture(scope="module")
def script():
    return load_script("bench")


@pytest.fixture(autouse=True)
def native():
    assert extension.load_all(), "the operators under test could not be built"
    yield
    extension.set_mode("native")


def test_every_part_of_a_run_can_be_measured(script):
    for part in ("step", "render", "export"):
        toybox = next(script.GROUPS[part](CPU))
        with torch.no_grad():
            result = toybox.call()
        assert toybox.op == part and toybox.size.endswith("toybox")
        assert result.isfinite().all() and len(result)


def test_the_step_of_the_benchmark_is_that_of_plain_diffusers_for_less(script, tmp_path):
    from tiny_diffusion import save_pipeline

    cases = {f"{case.op} {case.size}": case for case in script.sd_cases(CPU, save_pipeline(tmp_path, "AutoencoderKL"))}
    assert len(cases) == 2 + 4 + 2
    for name, case in cases.items():
        ours, theirs = case.call().detach(), case.peer().detach()
        assert ours.shape == theirs.shape and ours.isfinite().all() and theirs.isfinite().all()
        if name.startswith("encoder"):
            assert torch.allclose(ours, theirs, atol=0.02)  # bf16 where the processor has it


def test_the_memory_of_a_step_is_counted_without_computing_it(script, tmp_path, monkeypatch, capsys):
    from tiny_diffusion import save_pipeline

    source = save_pipeline(tmp_path, "AutoencoderKL")
    monkeypatch.setattr(script, "held", functools.partial(script.held, source))
    report, page = tmp_path / "memory.json", tmp_path / "page.md"
    monkeypatch.setattr(sys, "argv", ["bench.py", "sd", "--device", "fake", "--json", str(report)])
    script.main()
    rows = {(row["op"], row["size"]): row for row in json.loads(report.read_text())["rows"]}
    whole, small = rows["guidance", "whole"], rows["guidance", "8-bit UNet"]
    weights = sum(path.stat().st_size for path in (tmp_path / "unet").glob("*.safetensors")) / 2e9  # half of float32
    assert rows["UNet", "two prompts"]["ours_read"] == pytest.approx(weights, rel=0.1)
    assert whole["ours_read"] == whole["reference_read"] > small["ours_read"] > whole["ours_read"] / 2
    many = [row["ours_made"] for (op, _), row in rows.items() if op == "guidance, 4 pictures"]
    assert len(many) == 2 and min(many) > whole["ours_made"]
    assert 0 < rows["encoder", "16^2"]["ours_made"] < rows["encoder", "16^2"]["reference_made"]
    script.write_markdown([str(report)], page)
    assert "| guidance | whole | " in page.read_text() and "| guidance | whole | " in capsys.readouterr().out


def test_what_a_device_cannot_measure_is_refused(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench.py", "ops", "--device", "fake"])
    with pytest.raises(SystemExit, match="2"):
        script.main()
    assert "not of ops" in capsys.readouterr().err


def test_what_stops_one_case_leaves_the_figures_of_those_before(script, monkeypatch, tmp_path):
    def stop():
        raise KeyboardInterrupt

    made = [script.Case("twice", "3", lambda: torch.ones(3) * 2), script.Case("never", "9", stop)]
    monkeypatch.setattr(script, "GROUPS", {"march": lambda device: iter(made)})
    monkeypatch.setattr(sys, "argv", ["bench.py", "march", "--rounds", "2", "--json", str(tmp_path / "march.json")])
    with pytest.raises(KeyboardInterrupt):
        script.main()
    assert [row["op"] for row in json.loads((tmp_path / "march.json").read_text())["rows"]] == ["twice"]


def test_a_case_is_measured_in_both_passes_and_both_modes(script):
    seen = []

    def call():
        seen.append((extension.status("gridencoder").mode, torch.is_grad_enabled()))
        return x * 2

    x = torch.rand(3, requires_grad=True)
    rows = list(script.measure(script.Case("twice", "3", call, (x,), flops=6e9), 4, CPU, LIMITS))
    assert [row.passes for row in rows] == ["forward", "forward+backward"]
    assert set(seen) == {(mode, grad) for mode in ("native", "torch") for grad in (False, True)}
    assert all(0.1 < row.ratio < 10 and 0 <= row.spread < 10 and row.share > 0 for row in rows)


def test_a_case_that_there_is_too_little_memory_for_is_left_out(script, monkeypatch, capsys, tmp_path):
    def full():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    made = [script.Case("much", "9", full), script.Case("twice", "3", lambda: torch.ones(3) * 2)]
    monkeypatch.setattr(script, "GROUPS", {"march": lambda device: iter(made)})
    monkeypatch.setattr(sys, "argv", ["bench.py", "march", "--rounds", "2", "--json", str(tmp_path / "march.json")])
    script.main()
    assert [row["op"] for row in json.loads((tmp_path / "march.json").read_text())["rows"]] == ["twice"]
    assert re.search(r"much +9 +out of memory: CUDA out of memory. Tried", capsys.readouterr().out)


def test_a_rate_is_a_share_of_its_own_limit(script):
    make = lambda **options: script.Case("op", "size", lambda: None, **options)  # noqa: E731
    assert script.reached(make(flops=50e9), 2.0, LIMITS) == ("100 GFLOP/s", 0.5)
    assert script.reached(make(flops=50e9, bf16=True), 2.0, LIMITS) == ("100 GFLOP/s", 0.25)
    assert script.reached(make(rows=1e8), 2.0, LIMITS) == ("0.2 Grows/s", 0.4)
    assert script.reached(make(), 2.0, LIMITS) == ("", None)
    assert script.reached(make(flops=50e9), 2.0, None) == ("100 GFLOP/s", None)


def test_a_page_holds_the_figures_of_every_file(script, tmp_path, monkeypatch, capsys):
    case = script.Case("twice", "3 numbers", lambda: torch.ones(3) * 2, rows=1e3)
    monkeypatch.setattr(script, "GROUPS", {"march": lambda device: iter([case])})
    report, page = tmp_path / "march.json", tmp_path / "page.md"
    monkeypatch.setattr(sys, "argv", ["bench.py", "march", "--rounds", "2", "--json", str(report)])
    script.main()
    found = json.loads(report.read_text())
    assert found["rows"][0]["op"] == "twice" and found["limits"]["gflops"] > 0
    assert "twice" in capsys.readouterr().out
    script.write_markdown([str(report)], page)
    text = page.read_text()
    assert "## Rays on" in text and "| twice | 3 numbers | forward |" in text and "Grows/s (" in text
