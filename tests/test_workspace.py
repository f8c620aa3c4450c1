"""nerf/workspace.py: nothing of anybody's is lost, neither of the user nor of another run."""

from __future__ import annotations

import json

import pytest

from command_line import parse, save_run
from nerf import checkpoint, preflight, workspace
from nerf.config import ROOT


def leave_options(folder):
    (folder / "config.json").write_text(json.dumps(parse("--workspace", str(folder)).flat()))


@pytest.mark.parametrize("leave", [leave_options, save_run])
def test_a_run_is_known_by_its_options_or_its_checkpoints(tmp_path, leave):
    (tmp_path / "results").mkdir()
    assert not workspace.is_run(tmp_path)
    leave(tmp_path)
    assert workspace.is_run(tmp_path)
    workspace.check_own(tmp_path)


@pytest.mark.parametrize("ckpt", ["latest", "scratch"])
@pytest.mark.parametrize(
    "name, text", [("config.json", '{"mine": 1}'), ("log.jsonl", "no json"), ("results/a.csv", "1")]
)
def test_files_of_something_else_are_neither_overwritten_nor_moved(tmp_path, ckpt, name, text):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=f"holds {name.split('/')[0]}, and not of a run of this program: take another"):
        preflight.preflight(("train",), parse("--workspace", str(tmp_path), "--ckpt", ckpt))
    assert workspace.set_aside(tmp_path) is None
    assert (tmp_path / name).read_text() == text and len(list(tmp_path.iterdir())) == 1


def test_the_repository_is_no_workspace(monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(ValueError, match="--workspace . holds guidance"):
        workspace.check_own(".")
    assert workspace.set_aside(".") is None


def test_an_empty_folder_and_files_of_other_names_are_welcome(tmp_path):
    workspace.check_own(tmp_path / "new")
    (tmp_path / "notes.txt").write_text("mine")
    workspace.check_own(tmp_path)


def test_two_runs_do_not_train_in_one_folder(tmp_path):
    with workspace.claimed(tmp_path):
        with pytest.raises(ValueError, match="another run is training in --workspace .*: wait for its end, or take"):
            with workspace.claimed(tmp_path):
                pass
        (tmp_path / "other").mkdir()
        with workspace.claimed(tmp_path / "other"):
            pass
    with workspace.claimed(tmp_path):
        pass


def test_set_aside_moves_the_run_and_leaves_other_files(tmp_path):
    for number in (1, 2):
        save_run(tmp_path)
        (tmp_path / "config.json").write_text(str(number))
        (tmp_path / "notes.txt").write_text("mine")
        assert workspace.set_aside(tmp_path) == tmp_path / f"old-{number}"
        assert (tmp_path / f"old-{number}" / "config.json").read_text() == str(number)
        assert checkpoint.find(tmp_path / f"old-{number}").name == "step_000007.pt"
    assert checkpoint.find(tmp_path) is None
    assert (tmp_path / "notes.txt").exists()
    assert workspace.set_aside(tmp_path) is None
