"""scripts/evaluate.py: runs that are kept or break, what the table says, and that the truth itself is perfect."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

from nerf.export import save_obj
from nerf.marching_cubes import marching_cubes
from nerf.types import Mesh, RenderOutput
from scripting import load_script
from toybox import metrics
from toybox.captions import Caption
from toybox.judge import Judge
from toybox.primitives import Solid
from toybox.tracer import query, trace

FIGURES = dict(iou=0.8, colour=10.0, rank=1, hit=True, janus=None, ends=None, chamfer=0.02, fscore=0.6, normal=20.0)
COST = dict(train_seconds=60.0, seconds=80.0, peak_memory_gb=0.5)


@pytest.fixture(scope="module")
def script():
    return load_script("evaluate")


def row(text="a frog", seed=0, held_out=False, **changes):
    return {"text": text, "seed": seed, "held_out": held_out, **FIGURES, **COST, **changes}


def test_a_complete_run_is_kept_and_an_interrupted_one_goes_on(script, tmp_path, monkeypatch):
    commands = []

    def call(command, **options):
        commands.append(command)
        (tmp_path / "run.json").write_text('{"text": "a frog"}')
        return SimpleNamespace(returncode=0, stderr="")

    monkeypatch.setattr(script.subprocess, "run", call)
    (tmp_path / "run.json").write_text('{"step": 7}')  # what Ctrl-C leaves
    for _ in range(2):
        script.train(tmp_path, "a frog", 3, ["--iters", "5"], 1)
    assert len(commands) == 1 and commands[0][-2:] == ["--iters", "5"]
    assert commands[0][commands[0].index("--seed") + 1] == "3"


@pytest.mark.parametrize("change", ["options", "prior"])
def test_a_run_of_other_options_or_another_prior_is_not_taken_for_this_one(script, tmp_path, monkeypatch, change):
    prior = tmp_path / "prior"
    prior.mkdir()
    (prior / "SHA256SUMS").write_text("one")
    rest = ["--toybox_dir", str(prior)]

    def call(command, **options):
        (tmp_path / "out" / "run.json").write_text('{"text": "a frog"}')
        return SimpleNamespace(returncode=0, stderr="")

    monkeypatch.setattr(script.subprocess, "run", call)
    script.train(tmp_path / "out", "a frog", 0, rest, 1)
    script.train(tmp_path / "out", "a frog", 0, rest, 1)
    if change == "prior":
        (prior / "SHA256SUMS").write_text("other")
    with pytest.raises(RuntimeError, match="made with other options or by another prior: take another --runs"):
        script.train(tmp_path / "out", "a frog", 0, [*rest, "--fp16"] if change == "options" else rest, 1)


def test_a_broken_run_is_a_row_with_its_last_line_and_ends_nothing(script, tmp_path, monkeypatch):
    failed = SimpleNamespace(returncode=2, stderr="one\nmain.py: no such word\n")
    monkeypatch.setattr(script.subprocess, "run", lambda command, **options: failed)
    found, sheet = script.run(SimpleNamespace(runs=tmp_path, rest=[], jobs=1), "a dragon", 1)
    assert sheet is None
    error = "main.py ended with status 2: main.py: no such word"
    assert found == {"text": "a dragon", "held_out": False, "seed": 1, "error": error}


def test_a_broken_run_of_a_held_out_pair_counts_among_those(script, tmp_path, monkeypatch):
    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(script, "train", fail)
    found, _ = script.run(SimpleNamespace(runs=tmp_path, rest=[], jobs=1), "a photo of a purple frog", 0)
    assert found == {"text": "a purple frog", "held_out": True, "seed": 0, "error": "MemoryError"}
    assert script.summary([found])["held_out"]["broken"] == 1


def test_all_runs_are_measured_in_the_order_asked_though_some_break(script, tmp_path, monkeypatch):
    def measure(workspace):
        if "duck" in workspace.name:
            raise ValueError("no surface")
        return row(workspace.name), torch.zeros(2, 5, 3)

    monkeypatch.setattr(script, "train", lambda *args: None)
    monkeypatch.setattr(script, "measure", measure)
    monkeypatch.setattr(script.judge, "load", lambda: None)
    words = ["evaluate.py", "--seeds", "2", "--jobs", "2", "--json", str(tmp_path / "a.json")]
    words += ["--sheet", str(tmp_path / "a.png"), "--text", "a duck", "--text", "a frog"]
    monkeypatch.setattr("sys.argv", words)
    script.main()
    rows = json.loads((tmp_path / "a.json").read_text())["rows"]
    assert [(each["text"], each["seed"]) for each in rows if "error" not in each] == [("a_frog-0", 0), ("a_frog-1", 1)]
    assert [each["seed"] for each in rows if each.get("error") == "no surface"] == [0, 1]
    assert (tmp_path / "a.png").stat().st_size > 0


def test_means_leave_out_what_a_run_does_not_have(script):
    rows = [row(janus=True), row(janus=False, iou=0.6), row(chamfer=None, hit=False), {"text": "a cat", "error": "x"}]
    found = script.means(rows)
    assert found["runs"] == 4 and found["broken"] == 1
    assert found["iou"] == pytest.approx((0.8 + 0.6 + 0.8) / 3, abs=1e-4)
    assert found["janus"] == 0.5 and found["chamfer"] == 0.02 and found["hit"] == pytest.approx(2 / 3, abs=1e-4)
    assert script.means([])["iou"] is None


def test_the_held_out_prompts_have_a_mean_of_their_own(script):
    rows = [row(), row("a dog wearing a crown", held_out=True, iou=0.5)]
    found = script.summary(rows)
    assert found["all"]["iou"] == 0.65 and found["held_out"]["iou"] == 0.5 and found["held_out"]["runs"] == 1
    lines = script.table(rows).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == [
        "| a frog",
        "| a dog wearing a crown*",
        "| **mean**",
        "| **mean of held-out***",
    ]


def test_the_table_shows_every_seed_and_names_what_broke(script):
    rows = [row(), row(seed=1, iou=0.9, hit=False), {"text": "a cat", "seed": 0, "error": "out of memory"}]
    text = script.table(rows)
    assert "| a frog | 0.80 0.90 | 0.850 | 10.0 | 50% | - | - | 0.0200 | 0.600 | 20 | 60 | 80 | 0.50 | 2 |" in text
    assert (
        "| a cat | broken | - |" in text
        and "0.50 | 2 of 3 |" in text
        and text.splitlines()[-1] == "a cat (seed 0): out of memory"
    )
    assert len({line.count("|") for line in text.splitlines()[:-1]}) == 1


def test_an_obj_file_is_read_as_it_was_written(script, tmp_path):
    mesh = Mesh(torch.rand(5, 3), torch.tensor([[0, 1, 2], [2, 3, 4]], dtype=torch.int32), uvs=torch.rand(2, 3, 2))
    for name, written in (("with", mesh), ("without", Mesh(mesh.vertices, mesh.faces))):
        vertices, faces = script.read_obj(save_obj(tmp_path, written, name)[-1])
        assert_close(vertices, mesh.vertices, atol=1e-6, rtol=0)  # six decimals
        assert torch.equal(faces, mesh.faces.long())


def test_no_mesh_has_no_distance_and_no_score(script, tmp_path):
    solid = torch.from_numpy(Solid().sphere((0, 0, 0), 1, (0.5, 0.5, 0.5)).rows())
    assert script.compare_mesh(tmp_path / "mesh.obj", solid) == {"chamfer": None, "fscore": 0.0, "normal": None}


class TrueRenderer:
    """Renders a solid of Toybox through the cameras of nerf/."""

    def __init__(self, solid):
        self.solid = solid

    def render(self, cameras, shading, *, background):
        right, up, back, origin = cameras.c2w[:, :3].unbind(-1)
        forward = -back / torch.tan(torch.deg2rad(cameras.fovy) / 2)[:, None]
        seen = trace(self.solid, torch.cat([origin, right, up, forward], 1), cameras.height)
        return RenderOutput(rgb=seen[..., :3], opacity=seen[..., 3:4], depth=seen[..., 7:])


@pytest.mark.parametrize("from_step", [0, 300])
def test_the_truth_itself_is_perfect_in_pictures_and_as_a_mesh(script, tmp_path, monkeypatch, from_step):
    solid, n = metrics.truth(Caption("robot", "red")).solids[2], 80
    line = torch.linspace(-0.5, 0.5, n)
    distance = query(solid, torch.cartesian_prod(line, line, line))[:, 0].view(n, n, n)
    vertices, faces = marching_cubes(-distance.numpy())
    mesh = Mesh(torch.from_numpy(vertices).float() / (n - 1) - 0.5, torch.from_numpy(faces))
    save_obj(tmp_path / "mesh", mesh)
    report = {
        "from_step": from_step,
        "text": "a red robot",
        "seconds": {"train": 60.0, "mesh": 5.0},
        "peak_memory_gb": 0.5,
    }
    (tmp_path / "run.json").write_text(json.dumps(report))
    monkeypatch.setattr(script.checkpoint, "find", lambda workspace: workspace)
    monkeypatch.setattr(script.checkpoint, "read_meta", lambda path: {"text": "a photo of a red robot", "config": {}})
    configs = []
    monkeypatch.setattr(script.build, "load_trained", lambda config: configs.append(config) or TrueRenderer(solid))
    monkeypatch.setattr(script.judge, "load", lambda: Judge().eval())
    found, sheet = script.measure(tmp_path)
    assert found["text"] == "a red robot" and found["held_out"] is True
    assert found["iou"] > 0.999 and found["colour"] < 0.1  # rays of two cameras differ in the last digit
    # The floor of two samples of one surface, and edges that a grid of 80 samples cuts.
    assert found["chamfer"] < 0.007 and found["fscore"] > 0.995 and found["normal"] < 8
    times = (60.0, 65.0) if from_step == 0 else (None, None)  # of the last part alone say nothing
    assert (found["train_seconds"], found["seconds"], found["peak_memory_gb"]) == (*times, 0.5)
    assert configs[0].run.device == "cpu"  # where the truth is
    assert found["hit"] is (found["rank"] == 1) and found["janus"] in (True, False)
    assert found["ends"] == pytest.approx(1, abs=1e-2)
    assert sheet.shape == (2 * metrics.SIZE, 5 * metrics.SIZE, 3)
    assert_close(sheet[: metrics.SIZE], sheet[metrics.SIZE :], atol=1e-2, rtol=0)


def test_sheets_stand_in_columns_and_white_fills_the_last(script):
    sheets = [torch.full((2, 3, 3), value) for value in (0.1, 0.2, 0.3)]
    found = script.in_columns(sheets)
    assert found.shape == (4, 6, 3)
    assert [float(found[y, x, 0]) for y, x in ((0, 0), (0, 3), (2, 0), (2, 3))] == pytest.approx([0.1, 0.2, 0.3, 1.0])
