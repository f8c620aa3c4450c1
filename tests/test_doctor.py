"""The doctor: each finding has the right level and a fix, and the exit status follows."""

import ast
import hashlib
import shutil
import sys
from types import SimpleNamespace

import pytest
import torch

import extension
from nerf import comparisons, doctor, first_use
from nerf.config import ROOT, Config


@pytest.fixture
def prior(tmp_path):
    """A folder with two files and their hashes, as sha256sum writes them."""
    for name, data in (("unet/weights", b"\1\2\3"), ("model_index.json", b"{}")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    sums = [
        f"{hashlib.sha256(data).hexdigest()}  {name}\n"
        for name, data in (("unet/weights", b"\1\2\3"), ("model_index.json", b"{}"))
    ]
    (tmp_path / "SHA256SUMS").write_text("".join(sums))
    return tmp_path


def test_whole_prior_is_ok(prior):
    finding = doctor.check_prior(prior)
    assert finding.level == "ok" and "2 files" in finding.what


def test_changed_missing_and_unlisted_prior_fail(prior):
    (prior / "unet/weights").write_bytes(b"\1\2\4")
    assert "damaged" in doctor.check_prior(prior).what
    (prior / "unet/weights").unlink()
    assert "missing" in doctor.check_prior(prior).what
    (prior / "SHA256SUMS").unlink()
    finding = doctor.check_prior(prior)
    assert finding.level == "FAIL" and "SHA256SUMS is missing" in finding.what and finding.fix


@pytest.mark.parametrize("version, level", [((3, 9, 1), "FAIL"), ((3, 10, 0), "ok"), ((3, 14, 2), "ok")])
def test_old_python_fails(version, level):
    assert doctor.check_python(version).level == level


@pytest.mark.parametrize("version, level", [("", "FAIL"), ("2.9.1+cu126", "FAIL"), (torch.__version__, "ok")])
def test_missing_or_old_torch_fails(version, level):
    assert doctor.check_torch(version).level == level


def test_missing_package_fails_and_a_helpful_one_warns():
    found = list(doctor.check_packages(("pytest", "no-such-package"), {"no-such-helper": "no bar"}))
    assert [finding.level for finding in found] == ["ok", "FAIL", "warn"]
    assert "no bar" in found[2].what and "requirements.txt" in found[1].fix


def test_every_package_that_is_imported_at_the_top_of_a_file_is_needed():
    own = {"main", "nerf", "guidance", "toybox", "common", "extension", *extension.NAMES}
    files = [path for part in ("nerf", "guidance", "toybox") for path in (ROOT / part).rglob("*.py")]
    found = set()
    for node in (node for path in files for node in ast.parse(path.read_text()).body):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module.split(".")[0])
    assert {"torch", "tqdm"} <= found
    assert found - set(sys.stdlib_module_names) - own <= {"torch", *doctor.NEEDED}


def test_full_disk_fails(tmp_path, monkeypatch):
    assert doctor.check_disk(str(tmp_path / "new" / "folder")).level == "ok"
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10**8))
    finding = doctor.check_disk(str(tmp_path))
    assert finding.level == "FAIL" and "100 MB are free" in finding.what


def test_workspace_inside_a_file_fails(tmp_path):
    (tmp_path / "file").touch()
    finding = doctor.check_disk(str(tmp_path / "file" / "out"))
    assert finding.level == "FAIL" and "is a file" in finding.what and finding.fix


def test_missing_compiler_is_a_warning_with_the_fix(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    finding = doctor.check_compiler()
    assert finding.level == "warn" and "no-such-compiler" in finding.what and finding.fix


@pytest.mark.parametrize(
    "capability, wheel, expected",
    [
        ((9, 0), ["sm_80", "sm_90"], True),
        ((8, 9), ["sm_80", "sm_90"], True),  # machine code of an earlier minor version
        ((8, 0), ["sm_86"], False),
        ((6, 1), ["sm_75", "sm_80", "compute_80"], False),  # Pascal with a wheel that starts at Turing
        ((12, 0), ["sm_90"], False),
        ((12, 0), ["sm_90", "compute_90"], True),  # PTX is compiled for newer GPUs
        ((12, 0), ["sm_100", "sm_120a"], True),
        ((9, 0), [], False),
    ],
)
def test_gpu_runs_what_the_wheel_was_built_for(capability, wheel, expected):
    assert doctor.runs_on(capability, wheel) is expected


def test_gpu_without_kernels_in_the_wheel_fails(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (6, 1))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "GTX 1080")
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_90"])
    finding = doctor.check_gpu()
    assert finding.level == "FAIL" and "sm_61" in finding.what and finding.fix


@pytest.fixture
def examine(monkeypatch):
    """What doctor finds where the comparison says this, of three extensions of which the second was not built."""

    def examine(*verdicts):
        monkeypatch.setattr(extension, "_mode", extension._mode)
        monkeypatch.setattr(extension, "NAMES", ("one", "two", "three"))
        monkeypatch.setattr(extension, "load", lambda name: name != "two")
        monkeypatch.setattr(extension, "status", lambda name: SimpleNamespace(error="no compiler"))
        monkeypatch.setattr(first_use, "compare_apart", lambda device, names: list(verdicts))
        return {finding.what.split(":")[0]: finding for finding in doctor.check_extensions()}

    return examine


@pytest.mark.parametrize("gpu, level", [(False, "FAIL"), (True, "warn")])
def test_what_extensions_do_is_said_with_what_to_do(examine, monkeypatch, gpu, level):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    found = examine(comparisons.Verdict("one", "", 1e-7), comparisons.Verdict("three", "its kernels do not end"))
    assert [found[name].level for name in ("one", "two", "three")] == ["ok", "warn", level]
    assert "within 1e-07" in found["one"].what and "no compiler" in found["two"].what
    assert "do not end" in found["three"].what and "report it" in found["three"].fix


def test_what_could_not_be_compared_is_a_warning(examine):
    found = examine(comparisons.Verdict("one", "", 1e-7))
    assert found["three"].level == "warn" and "nothing runs" in found["three"].what


@pytest.mark.parametrize("levels, status", [(["ok", "warn"], 0), (["ok", "FAIL", "ok"], 1)])
def test_exit_status_says_whether_the_main_job_can_run(monkeypatch, capsys, levels, status):
    findings = [doctor.Finding(level, "something", "do this") for level in levels]
    monkeypatch.setattr(doctor, "examine", lambda config: iter(findings))
    assert doctor.run(Config()) == status
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(levels) + 1
    assert lines[0] == "ok   something - do this"


def test_doctor_looks_at_everything(prior, monkeypatch):
    monkeypatch.setattr(doctor, "check_extensions", lambda: (doctor.Finding("ok", name) for name in extension.NAMES))
    found = list(doctor.examine(Config().updated({"toybox_dir": str(prior)})))
    text = "\n".join(map(str, found))
    for what in ("Python", "torch", "compiler", "ninja", "GPU", "prior", "disk", *extension.NAMES):
        assert what in text
    assert not [finding for finding in found if finding.level != "ok" and not finding.fix]
    assert sys.version.split()[0] in text
