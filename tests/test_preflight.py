"""What would stop a run later is refused before anything heavy loads."""

from __future__ import annotations

import importlib.util

import pytest

from guidance import weights
from nerf import checkpoint, preflight, select_guidance
from nerf.config import Config


@pytest.fixture
def configure(tmp_path):
    """configure(option=value, ...): a configuration whose workspace is tmp_path."""
    return lambda **options: Config().updated({"text": "a frog", "workspace": str(tmp_path), **options})


@pytest.mark.parametrize(
    "commands, options, refused",
    [
        (("train",), {"optim": "adan"}, True),
        (("train",), {"optim": "adam"}, False),
        (("train",), {"optim": "adan", "ckpt": "latest_model"}, False),  # takes the weights alone
        (("test",), {"optim": "adan"}, False),
    ],
)
def test_a_run_does_not_go_on_with_another_optimizer(configure, tmp_path, commands, options, refused):
    made = configure(optim="adam")
    checkpoint.save(tmp_path / "checkpoints", {}, {"step": 7, **made.fingerprint(), "config": made.flat()})
    if not refused:
        return preflight.preflight(commands, configure(**options))
    with pytest.raises(ValueError, match="was made with --optim adam, not adan: type --optim adam, "):
        preflight.preflight(commands, configure(**options))


@pytest.mark.parametrize("command, refused", [("train", True), ("test", True), ("six_views", False)])
def test_a_missing_writer_of_videos_is_named_before_the_training(configure, monkeypatch, command, refused):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    if not refused:
        return preflight.preflight((command,), configure())
    with pytest.raises(ValueError, match="needs imageio_ffmpeg.*: pip install -r requirements.txt"):
        preflight.preflight((command,), configure())


@pytest.mark.parametrize("gpu", [True, False])
@pytest.mark.parametrize("fp16", [True, False])
def test_half_precision_weights_are_fetched_for_a_gpu(configure, monkeypatch, gpu, fp16):
    asked = []
    monkeypatch.setattr(select_guidance, "has_accelerator", lambda device: gpu)
    monkeypatch.setattr(weights, "locate", lambda sources, half, **options: asked.append(half))
    preflight.preflight(("train",), configure(guidance=("SD",), fp16=fp16))
    assert asked == [gpu]  # what guidance.stable_diffusion runs in there, --fp16 or not
