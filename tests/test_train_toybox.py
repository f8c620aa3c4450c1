"""scripts/train_toybox.py: whole trainings of a second, from nothing, resumed, and from an earlier prior."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from diffusers import StableDiffusionPipeline

from scripting import load_script


@pytest.fixture(scope="module")
def script():
    return load_script("train_toybox")


@pytest.fixture
def train(script, tmp_path, monkeypatch):
    def train(out, minutes, *options, work="work"):
        words = ["x", "--work", str(tmp_path / work), "--out", str(tmp_path / out), "--minutes", str(minutes)]
        sizes = ["--solids", "44", "--batch", "4", "--device", "cpu"]
        monkeypatch.setattr(sys, "argv", [*words, *sizes, *map(str, options)])
        script.main()
        return json.loads((tmp_path / out / "training.json").read_text())

    return train


def test_a_training_leaves_a_pipeline_goes_on_where_it_was_and_begins_from_another(train, tmp_path):
    first = train("prior", 0.02, "--vae_minutes", 0.02)
    assert first["pictures"] == 3 * 44 and first["steps"] > 0 and first["high"] > 0
    pictures = (tmp_path / "work" / "pictures-44-0.npz").stat().st_mtime
    spent = torch.load(tmp_path / "work" / "diffusion.pt")["spent"]
    again = train("prior", spent / 60 + 0.01, "--vae_minutes", 0.02)
    assert again["steps"] > first["steps"]
    assert (tmp_path / "work" / "pictures-44-0.npz").stat().st_mtime == pictures
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "prior", dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline("a frog, front view", num_inference_steps=2).images[0].size == (128, 128)

    onward = train("next", 0.01, "--init", tmp_path / "prior", "--vae_minutes", 0, work="work2")
    assert onward["steps"] > again["steps"] and onward["init"] == "prior"
    resumed = torch.load(tmp_path / "work2" / "diffusion.pt")
    assert resumed["first"] == again["steps"] and resumed["step"] == onward["steps"]
    same = [torch.load(tmp_path / work / "latents-44-0.pt")["latents"] for work in ("work", "work2")]
    assert torch.allclose(*same, atol=2e-2)  # of the same autoencoder: minutes 0 keep it, stored in half precision
