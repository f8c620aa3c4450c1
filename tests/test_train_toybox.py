"""scripts/train_toybox.py: whole trainings of a second, from nothing, resumed, and from an earlier prior."""

from __future__ import annotations

import json
import re
import sys

import imageio.v3 as imageio
import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from guidance.prompts import VIEW_WORDS
from scripting import load_script
from toybox.pictures import sample


@pytest.fixture(scope="module")
def script():
    return load_script("train_toybox")


@pytest.fixture
def train(script, tmp_path, monkeypatch):
    sheet = script.sheet
    monkeypatch.setattr(script, "sheet", lambda *words, steps, **options: sheet(*words, steps=1, **options))

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
    assert imageio.imread(tmp_path / "work" / "samples.png").shape == (4 * 128, len(VIEW_WORDS) * 128, 3)
    pictures = (tmp_path / "work" / "pictures-44-0.npz").stat().st_mtime
    spent = torch.load(tmp_path / "work" / "diffusion.pt")["spent"]
    again = train("prior", spent / 60 + 0.01, "--vae_minutes", 0.02)
    assert again["steps"] > first["steps"]
    assert (tmp_path / "work" / "pictures-44-0.npz").stat().st_mtime == pictures
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "prior", dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline("a frog, front view", num_inference_steps=2).images[0].size == (128, 128)

    kept = torch.load(tmp_path / "work" / "diffusion.pt")["spent"] / 60
    copied = train("copy", kept, "--vae_minutes", 0.02)  # whose minutes are over
    assert copied == again and sums_of(tmp_path / "copy") == sums_of(tmp_path / "prior")

    onward = train("next", 0.01, "--init", tmp_path / "prior", "--vae_minutes", 0, work="work2")
    assert onward["steps"] > again["steps"] == onward["steps_before"] and onward["init"] == "prior"
    resumed = torch.load(tmp_path / "work2" / "diffusion.pt")
    assert resumed["first"] == again["steps"] and resumed["step"] == onward["steps"]
    same = [torch.load(latents)["latents"] for work in ("work", "work2") for latents in latents_in(tmp_path / work)]
    assert torch.allclose(*same, atol=2e-2)  # of the same autoencoder: minutes 0 keep it, stored in half precision

    longer = resumed["spent"] / 60 + 0.01
    train("changed", longer, "--init", tmp_path / "prior", "--vae_minutes", 0.01, work="work2")
    assert len(latents_in(tmp_path / "work2")) == 2  # of another autoencoder, which does not see through the first


@pytest.mark.parametrize("option, value", [("--seed", 1), ("--prediction", "epsilon"), ("--coloured", 1)])
def test_a_training_does_not_go_on_as_another_one(train, tmp_path, capsys, option, value):
    train("prior", 0.01, "--vae_minutes", 0)
    before = (tmp_path / "prior" / "training.json").read_bytes()
    with pytest.raises(SystemExit, match="2"):
        train("prior", 1, "--vae_minutes", 0, option, value)
    assert re.search(rf"diffusion.pt is of a training with {option} \S+, not {value}\S*: take", capsys.readouterr().err)
    assert (tmp_path / "prior" / "training.json").read_bytes() == before


def test_a_state_that_does_not_say_what_it_was_asked_for_is_taken(script, tmp_path):
    script.check_same(tmp_path / "diffusion.pt", {}, {"seed": "8"})  # of an earlier version


def sums_of(prior):
    return (prior / "SHA256SUMS").read_text()


def latents_in(folder):
    return list(folder.glob("latents-44-0-*.pt"))


def test_another_prediction_width_and_look_can_be_trained_to_compare(train, tmp_path):
    changed = ["--prediction", "epsilon", "--channels", 4, "--textureless", 0.5, "--coloured", 1]
    record = train("other", 0.01, "--vae_minutes", 0.01, *changed)
    assert (record["lambertian"], record["textureless"], record["coloured"]) == (0.25, 0.5, 1)
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "other", dtype=torch.float32)
    assert pipeline.scheduler.config.prediction_type == "epsilon" and pipeline.unet.config.in_channels == 4
    assert pipeline.vae.config.latent_channels == 4
    made = np.load(tmp_path / "work" / "pictures-44-0-0.25-0.5-1.0.npz")
    assert not (made["images"][:3] == sample(np.random.default_rng((0, 0))).images).all()


def test_begun_anew_only_what_touches_the_latents_is_not_taken_over(train, tmp_path, capsys):
    train("prior", 0.01, "--vae_minutes", 0.01)
    capsys.readouterr()
    train("same", 0.01, "--init", tmp_path / "prior", "--vae_minutes", 0, "--anew", work="same")
    assert taken_over(capsys) == {"vae": 0, "text_encoder": 0, "unet": 3}  # all of conv_in and conv_out but one bias
    train("anew", 0.01, "--init", tmp_path / "prior", "--vae_minutes", 0.01, "--anew", work="anew")
    assert taken_over(capsys)["vae"] == 3  # the last layer of the encoder, the first of the decoder without a bias
    train("narrow", 0.01, "--init", tmp_path / "prior", "--vae_minutes", 0.01, "--channels", 4, work="narrow")
    assert taken_over(capsys) == {"vae": 3, "text_encoder": 0, "unet": 3}


def taken_over(capsys) -> dict[str, int]:
    """How many tensors of each part were left as they began."""
    found = re.findall(r"(\w+)/[\w.]+: (\d+) of (\d+) tensors taken over", capsys.readouterr().out)
    return {part: int(all_of) - int(known) for part, known, all_of in found}


def test_shares_that_are_none_are_refused_in_one_line(train, capsys):
    with pytest.raises(SystemExit) as stopped:
        train("other", 0.01, "--textureless", 0.9)
    assert stopped.value.code == 2 and "shares must lie in [0, 1]" in capsys.readouterr().err
