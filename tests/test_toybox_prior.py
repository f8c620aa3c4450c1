"""The prior in the repository: whole, small, and loadable like any Stable Diffusion.

Nothing here judges its pictures: scripts/evaluate.py does, in 3D and against the truth.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from guidance.prompts import view_prompts
from guidance.stable_diffusion import StableDiffusion
from guidance.types import GuidanceBatch
from nerf import doctor
from nerf.config import ROOT, Config
from toybox import architecture
from toybox.lexicon import known_to, lexicon
from toybox.words import OBJECTS, words_of

PRIOR = Path(Config().guidance.toybox_dir)
ALL = pytest.mark.parametrize("folder", sorted((ROOT / "toybox").glob("prior*")), ids=lambda folder: folder.name)


@pytest.fixture(scope="module")
def prior():
    loaded = StableDiffusion(str(PRIOR), pictures=True)
    loaded.prepare("a frog")
    return loaded


@ALL
def test_every_file_has_the_hash_it_was_published_with(folder):
    found = doctor.check_prior(folder)
    assert found.level == "ok", found


@ALL
def test_the_hashes_cover_every_file_that_is_loaded(folder):
    named = {line.split()[1] for line in (folder / "SHA256SUMS").read_text().splitlines()}
    needed = {
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.suffix in (".json", ".safetensors")
    }
    assert needed == named


@ALL
def test_it_takes_at_most_thirty_megabytes(folder):
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 30e6


@ALL
def test_its_tokenizer_has_one_token_for_every_word_it_is_asked(folder):
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(str(folder / "tokenizer"))
    asked = {word for _, phrase in lexicon(known_to(folder)).values() for word in phrase.split()}
    asked |= {word for prompt in view_prompts("a frog") for word in words_of(prompt)}
    assert {word: len(tokenizer(word).input_ids) - 2 for word in asked} == dict.fromkeys(asked, 1)
    assert set(list(OBJECTS)[:12]) <= asked
    assert len(tokenizer) == json.loads((folder / "text_encoder" / "config.json").read_text())["vocab_size"]


def test_its_scheduler_predicts_velocity_over_a_thousand_steps():
    stored = json.loads((PRIOR / "scheduler" / "scheduler_config.json").read_text())
    assert stored["prediction_type"] == "v_prediction" and stored["num_train_timesteps"] == 1000


def test_the_stable_diffusion_guidance_loads_it_frozen(prior):
    assert prior.image_size == (128, 128) and prior.latent_shape == (architecture.LATENT_CHANNELS, 16, 16)
    assert prior.prediction_type == "v_prediction"
    assert not any(p.requires_grad for part in (prior.unet, prior.vae) for p in part.parameters())


def test_its_answers_are_finite_and_depend_on_the_picture(prior):
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    angle = torch.tensor([0.0, 180.0])
    batch = GuidanceBatch(
        images=images,
        azimuth=angle,
        elevation=torch.zeros(2),
        generator=torch.Generator().manual_seed(0),
        want_pictures=True,
    )
    out = prior(batch)
    out.loss.backward()
    assert not out.lost.any()
    assert images.grad.isfinite().all() and images.grad.abs().amax((1, 2, 3)).min() > 0
    assert out.pictures.shape == (6, 3, 128, 128)


def test_the_autoencoder_gives_a_toybox_picture_back(prior):
    import numpy as np

    from toybox import pictures

    made = pictures.sample(np.random.default_rng(0), views=2).images
    images = torch.from_numpy(made).float() / 255
    with torch.no_grad():
        again = prior.decode(prior.encode(images))
    # 0.06 of the range from black to white, on average: flat colours survive, which an untrained one misses by 0.3
    assert (again - images).abs().mean() < 0.06


def test_the_ordinary_diffusers_pipeline_loads_it():
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(str(PRIOR), dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    made = pipeline(
        "a frog, front view",
        height=128,
        width=128,
        num_inference_steps=2,
        output_type="np",
        generator=torch.Generator().manual_seed(0),
    )
    assert made.images.shape == (1, 128, 128, 3) and made.images.min() >= 0 and made.images.max() <= 1
