"""Operators are compared with their references before a GPU's first run, and those that fail do not serve."""

from __future__ import annotations

import math
import sys
from dataclasses import replace

import pytest
import torch

import extension
from common import libraries
from nerf import comparisons, first_use

GPU = torch.device("cuda", 0)

# As first_use.COMMAND, of operators with faults: one that is wrong, one that raises, one that ends the process.
FAULTS = """
import os, sys, torch
from nerf import comparisons
sys.argv = sys.argv[1:]
def wrong(device):
    import extension
    return {"value": torch.ones(3) * (1.5 if extension._mode == "native" else 1.0)}
def none(device):
    import extension
    return {"value": torch.full((3,), float("nan")) if extension._mode == "native" else torch.ones(3)}
def longer(device):
    import extension
    return {"value": torch.ones(4 if extension._mode == "native" else 3)}
def raises(device):
    raise RuntimeError("an illegal memory access\\nwas encountered")
def ends(device):
    os.abort()
def hangs(device):
    import time
    time.sleep(600)
import extension
extension.load = lambda name: True
def right(device):
    return {"value": torch.ones(3)}
comparisons.COMPARISONS = {name: value for name, value in globals().items() if callable(value)}
sys.exit(comparisons.main(*sys.argv))
"""


@pytest.fixture
def faults(monkeypatch, tmp_path):
    """Has `ask` run that."""
    script = tmp_path / "faults.py"
    script.write_text(FAULTS)
    monkeypatch.setenv("PYTHONPATH", str(first_use.ROOT))
    monkeypatch.setattr(first_use, "COMMAND", (sys.executable, str(script)))


def problems(device, names):
    return {verdict.name: verdict.problem for verdict in first_use.compare_apart(device, names)}


@pytest.mark.parametrize("name", extension.NAMES)
def test_what_is_compared_is_more_than_zeros_and_agrees(name, monkeypatch):
    assert extension.load(name), "the operators under test could not be built"
    monkeypatch.setattr(extension, "_mode", "native")
    found = comparisons.differences(name, "cpu")
    assert all(difference.agrees for difference in found) and found[0].share < 1e-5
    monkeypatch.setattr(extension, "_mode", "torch")
    assert all(
        value.isfinite().all() and value.abs().max() > 1e-3 for value in comparisons.COMPARISONS[name]("cpu").values()
    )


@pytest.mark.parametrize(
    "error, agrees", [(0.0, True), (1e-6, True), (1e-3, False), (1e-2, False), (math.nan, False), (math.inf, False)]
)
def test_an_operator_has_to_be_near_its_reference(monkeypatch, error, agrees):
    def compare(device):
        return {"one": torch.ones(3), "other": torch.ones(3) + (error if extension._mode == "native" else 0.0)}

    monkeypatch.setattr(extension, "_mode", extension._mode)
    monkeypatch.setattr(extension, "load", lambda name: True)
    monkeypatch.setitem(comparisons.COMPARISONS, "anything", compare)
    found = comparisons.judge("anything", "cpu")
    assert (found.problem == "") == agrees and found.problem.startswith("other") != agrees


def test_a_fault_is_found_and_the_rest_compared(faults):
    names = ["wrong", "none", "longer", "raises", "ends", "right"]
    found = problems("cpu", names)
    assert list(found) == names
    assert found["wrong"] == "value is 50.00% off, beside its reference"
    assert found["none"] == found["longer"] == "value has no number, beside its reference"
    assert found["raises"] == "an illegal memory access was encountered"
    assert "its kernels end the process" in found["ends"] and found["right"] == ""


def test_a_kernel_that_does_not_end_is_stopped(faults, monkeypatch):
    monkeypatch.setattr(first_use, "PATIENCE", 30)
    assert problems("cpu", ["right", "hangs"]) == {"right": "", "hangs": "its kernels do not end"}


def test_the_operators_of_this_machine_agree_from_any_folder(tmp_path, monkeypatch):
    (tmp_path / "json.py").write_text("raise SystemExit('a file of the user is none of ours')")
    monkeypatch.chdir(tmp_path)
    assert problems("cpu", ["adan", "freqencoder"]) == {"adan": "", "freqencoder": ""}


def test_where_nothing_can_be_compared_nothing_is_said(faults):
    assert list(first_use.compare_apart("cuda:99", ["right"])) == []


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    """A GPU that has not run anything yet; calls: what was compared."""
    calls = []

    def apart(device, names):
        calls.append(list(names))
        return [comparisons.Verdict(name, "it is wrong" if name == "adan" else "") for name in names]

    status = extension.ExtensionStatus("", "native", True, None, None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "GTX 1080")
    monkeypatch.setattr(first_use, "compare_apart", apart)
    monkeypatch.setattr(extension, "status", lambda name: replace(status, library=tmp_path / f"{name}.so"))
    monkeypatch.setattr(extension, "_loaded", dict.fromkeys(extension.NAMES, True))
    monkeypatch.setattr(libraries, "failures", {})
    monkeypatch.setattr(extension, "_mode", "native")
    return calls


def test_what_agrees_is_not_compared_again_and_what_does_not_is_left(gpu, capsys, monkeypatch):
    assert not first_use.load_operators(GPU)
    assert gpu == [list(extension.NAMES)]
    said = capsys.readouterr().err
    assert "warning: adan: it is wrong on GTX 1080" in said and "torch operators serve" in said
    assert not extension.load("adan") and extension.load("gridencoder")
    extension._loaded["adan"] = True  # the next run
    first_use.load_operators(GPU)
    assert gpu[1:] == [["adan"]]
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "GTX 1090")
    first_use.compare_once(GPU, extension.NAMES)
    assert gpu[2:] == [list(extension.NAMES)]


def test_what_was_not_built_is_not_compared(gpu):
    extension._loaded["shencoder"] = False
    assert not first_use.load_operators(GPU)
    assert gpu == [[name for name in extension.NAMES if name != "shencoder"]]


def test_on_a_cpu_or_without_compiled_operators_nothing_is_compared(gpu, monkeypatch):
    assert first_use.load_operators(torch.device("cpu"))
    monkeypatch.setattr(extension, "_mode", "torch")
    assert not first_use.load_operators(GPU)
    assert gpu == []


def test_a_library_in_a_folder_of_another_is_compared_every_time(gpu, monkeypatch, tmp_path):
    missing = extension.ExtensionStatus("", "native", True, tmp_path / "missing" / "x.so", None)
    monkeypatch.setattr(extension, "status", lambda name: missing)
    first_use.compare_once(GPU, ["gridencoder"])
    first_use.compare_once(GPU, ["gridencoder"])
    assert gpu == [["gridencoder"]] * 2
