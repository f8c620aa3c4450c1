"""Checkpoints: atomic, exact, refused where they do not fit."""

import os
import subprocess
import sys
import threading

import pytest
import torch

from nerf import build, checkpoint
from nerf.config import ROOT, Config

META = {"step": 400, "text": "a frog", "architecture": {"num_levels": 12, "bound": 1.0}}


def state(seed=0):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.nn.Parameter(torch.randn(31, 3, generator=generator))
    bits = torch.arange(257, dtype=torch.int32).to(torch.uint8)
    optimizer = {"state": {0: {"step": 3, "moments": [weight.detach() * 2]}}, "groups": [{"betas": (0.9, 0.99)}]}
    return {"field": {"weight": weight}, "bits": bits, "optimizer": optimizer, "empty": torch.zeros(0), "best": None}


def flatten(value):
    if isinstance(value, dict):
        return [x for key, item in value.items() for x in [key, *flatten(item)]]
    if isinstance(value, (list, tuple)):
        return [type(value).__name__, *(x for item in value for x in flatten(item))]
    return [(value.dtype, value.tolist())] if isinstance(value, torch.Tensor) else [value]


def save_steps(folder, *steps):
    return [checkpoint.save(folder, state(), {**META, "step": step}) for step in steps]


def test_load_gives_back_exactly_what_was_saved(tmp_path):
    path = checkpoint.save(tmp_path, state(), META)
    assert path.name == "step_000400.pt"
    assert flatten(checkpoint.load(path)) == flatten(state())


def test_a_run_that_goes_on_loads_its_state_into_ordinary_memory(make, monkeypatch):
    """Its guidance is planned while the state is there: on the GPU it would take what the plan counts as free."""
    trainer, places, original = make(), [], torch.load
    assert trainer.train()

    def spied(*args, map_location, **options):
        places.append(map_location)
        return original(*args, map_location=map_location, **options)

    monkeypatch.setattr(torch, "load", spied)
    config = Config().updated(checkpoint.read_meta(trainer.good)["config"])
    again = build.build_trainer(config, torch.device("cpu:0"))  # another name than that of ordinary memory
    assert places == ["cpu"] and again.step == trainer.step


def test_torch_load_opens_a_checkpoint_too(tmp_path):
    path = checkpoint.save(tmp_path, state(), META)
    assert torch.equal(torch.load(path, weights_only=True)["bits"], state()["bits"])


def test_same_state_gives_the_same_bytes_in_another_process_and_folder(tmp_path):
    path = checkpoint.save(tmp_path / "here", state(), META)
    code = (
        "import sys; sys.path[:0] = ['tests', '.']; import test_checkpoint as t; from nerf import checkpoint as c;"
        "c.save(sys.argv[1], t.state(), t.META)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "there")], cwd=ROOT, check=True)
    assert path.read_bytes() == (tmp_path / "there" / path.name).read_bytes()


def test_loaded_state_is_saved_as_the_same_bytes(tmp_path):
    first = checkpoint.save(tmp_path / "first", state(), META)
    second = checkpoint.save(tmp_path / "second", checkpoint.load(first), checkpoint.read_meta(first))
    assert first.read_bytes() == second.read_bytes()


def test_view_does_not_drag_its_storage_into_the_file(tmp_path):
    large = torch.zeros(10**6)
    path = checkpoint.save(tmp_path, {"view": large[:10], "column": large.view(1000, 1000)[:3, 0]}, META)
    assert path.stat().st_size < 10_000


def test_only_the_last_two_are_kept(tmp_path):
    save_steps(tmp_path, 100, 200, 1000)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_000200.pt", "step_001000.pt"]


def test_saving_an_earlier_step_makes_it_the_latest_and_keeps_the_later_ones_aside(tmp_path):
    save_steps(tmp_path / "checkpoints", 300, 400, 350)
    assert checkpoint.find(tmp_path).name == "step_000350.pt"
    assert (tmp_path / "checkpoints" / "step_000400.pt.old").exists()


def test_failed_save_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    (path,) = save_steps(tmp_path, 400)
    before = path.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save(tmp_path, state(seed=1), META)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == before


@pytest.fixture
def slow(monkeypatch):
    """slow.set() lets the files of a Writer be written."""
    go, write = threading.Event(), checkpoint._write
    monkeypatch.setattr(checkpoint, "_write", lambda *given: go.wait(60) and write(*given))
    yield go
    go.set()


def test_a_writer_writes_the_state_of_its_call_while_the_state_moves_on(tmp_path, slow):
    moving, expected = state(), checkpoint._plain(state())
    with checkpoint.Writer() as writer:
        path = writer.save(tmp_path, moving, META)
        for tensor in (moving["field"]["weight"].data, moving["bits"], *moving["optimizer"]["state"][0]["moments"]):
            tensor.zero_()
        moving["optimizer"]["state"][0]["step"] = 4
        assert not path.exists()  # the call has not waited for it
        slow.set()
    assert flatten(checkpoint.load(path)) == flatten(expected)


def test_a_writer_writes_one_file_after_the_other_and_keeps_two(tmp_path):
    with checkpoint.Writer() as writer:
        for step in (100, 200, 300):
            writer.save(tmp_path, state(), {**META, "step": step})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_000200.pt", "step_000300.pt"]


def test_a_file_is_there_when_its_run_ends_with_an_error_too(tmp_path, slow):
    with pytest.raises(KeyboardInterrupt), checkpoint.Writer() as writer:
        path = writer.save(tmp_path, state(), META)
        slow.set()
        raise KeyboardInterrupt
    assert path.exists()


@pytest.mark.parametrize("asked", ["save", "end"])
def test_what_stops_a_writer_stops_its_run(tmp_path, monkeypatch, asked):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"), checkpoint.Writer() as writer:
        writer.save(tmp_path, state(), META)
        if asked == "save":
            writer.save(tmp_path, state(), META)
            pytest.fail("the second call has not heard of it")
    assert list(tmp_path.iterdir()) == []


def test_state_that_a_safe_load_would_refuse_is_refused_when_saved(tmp_path):
    with pytest.raises(ValueError, match="tensors and plain values, got Generator"):
        checkpoint.save(tmp_path, {"rng": torch.Generator()}, META)


def test_find_takes_the_latest_step_by_number(tmp_path):
    save_steps(tmp_path / "checkpoints", 999_999, 1_000_000)
    for name in ("latest", "best", "latest_model"):
        assert checkpoint.find(tmp_path, name).name == "step_1000000.pt"
    assert checkpoint.find(tmp_path, "scratch") is None
    assert checkpoint.find(tmp_path / "nothing") is None


def test_find_takes_a_file_and_refuses_a_name_that_is_none(tmp_path):
    (path,) = save_steps(tmp_path, 400)
    assert checkpoint.find("elsewhere", str(path)) == path
    with pytest.raises(ValueError, match="--ckpt needs .* got 'lates'"):
        checkpoint.find(tmp_path, "lates")


@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_truncated_file_is_refused(tmp_path, share):
    older, path = save_steps(tmp_path, 300, 400)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    for refuse in (checkpoint.read_meta, checkpoint.load, lambda p: checkpoint.check(p, META)):
        with pytest.raises(ValueError, match=rf"step_000400.pt is damaged .*--ckpt {older}"):
            refuse(path)


def test_flipped_bit_is_refused(tmp_path):
    (path,) = save_steps(tmp_path, 400)
    data = bytearray(path.read_bytes())
    data[data.find(state()["bits"].numpy().tobytes()) + 100] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="is damaged"):
        checkpoint.load(path)


def test_file_of_torch_alone_is_refused(tmp_path):
    torch.save({"a": 1}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="damaged or no checkpoint"):
        checkpoint.load(tmp_path / "other.pt", META)


def test_checkpoint_of_another_prompt_is_refused(tmp_path):
    (path,) = save_steps(tmp_path, 400)
    with pytest.raises(ValueError, match="made for --text 'a frog', not 'a duck': use another --workspace, or --ckpt"):
        checkpoint.load(path, {**META, "text": "a duck"})


def test_checkpoint_of_another_architecture_is_refused(tmp_path):
    (path,) = save_steps(tmp_path, 400)
    with pytest.raises(ValueError, match="made with --num_levels 12, not 16: type --num_levels 12"):
        checkpoint.load(path, {**META, "architecture": {"bound": 1.0, "num_levels": 16}})


def test_matching_checkpoint_is_accepted_with_its_meta(tmp_path):
    (path,) = save_steps(tmp_path, 400)
    assert checkpoint.check(path, {"text": META["text"], "architecture": META["architecture"]}) == META


def test_meta_is_read_without_torch(tmp_path):
    (path,) = save_steps(tmp_path, 400)
    code = "import sys; from nerf import checkpoint as c; c.read_meta(sys.argv[1]); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, check=True)
