"""`python main.py download` against a hub on this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

import main
import tiny_diffusion
from guidance import weights
from mock_hub import Repo, mock_hub

SD, IF = "a/stable-diffusion", "a/deepfloyd"


@pytest.fixture(scope="module")
def repositories(tmp_path_factory):
    folder = tmp_path_factory.mktemp("repositories")
    folders = {SD: tiny_diffusion.save_pipeline(folder / "sd"), IF: tiny_diffusion.save_deepfloyd(folder / "if")}
    return {
        name: {path.relative_to(of).as_posix(): path.read_bytes() for path in Path(of).rglob("*") if path.is_file()}
        for name, of in folders.items()
    }


@pytest.fixture
def server(monkeypatch, tmp_path, repositories):
    monkeypatch.setitem(weights.SOURCES, "2.1", [SD])
    monkeypatch.setattr(weights, "DEEPFLOYD_SOURCES", [IF])
    with mock_hub(monkeypatch, tmp_path / "hub") as server:
        server.repos |= {name: Repo(files) for name, files in repositories.items()}
        yield server


@pytest.mark.parametrize(
    "words, fetched",
    [([], [SD]), (["--IF"], [IF]), (["--guidance", "SD", "IF"], [SD, IF]), (["--guidance", "toybox"], [])],
    ids=" ".join,
)
def test_every_model_that_is_asked_for_is_fetched_whole(server, repositories, capsys, tmp_path, words, fetched):
    assert main.main(["download", *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    wanted = [f"ready: {name} in {tmp_path / 'hub'}" for name in fetched] or ["ready: toybox needs no download"]
    assert len(lines) == len(wanted) and all(map(str.startswith, lines, wanted))
    assert sorted(server.downloaded()) == sorted(file for name in fetched for file in repositories[name])
    server.asked.clear()
    assert main.main(["download", *words]) == 0 and not server.asked  # it is here


def test_a_model_that_cannot_be_had_is_one_line(server, capsys):
    del server.repos[IF]
    assert main.main(["download", "--guidance", "SD", "IF"]) == 2
    said = capsys.readouterr()
    assert said.out.startswith(f"ready: {SD} in ")
    assert said.err.splitlines()[-1].startswith(f"main.py: cannot load DeepFloyd IF ({IF}: not found")
