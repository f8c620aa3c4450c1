"""What a Stable Diffusion guidance does not take: prompts, folders, precisions and batches that make no sense."""

import json
import shutil

import pytest
import torch

from guidance.types import GuidanceBatch
from sd_case import batch, load
from tiny_diffusion import LATENT, save_pipeline


def test_latents_of_another_model_are_refused(prior):
    with pytest.raises(ValueError, match="denoises 4 channels, but the latents have 8.*--latent_iter_ratio 0"):
        load(prior)(batch(latents=torch.zeros(2, 8, LATENT, LATENT)))


def test_a_prompt_that_is_too_long_is_cut_with_one_line_and_keeps_its_view_words(prior, caplog):
    guidance = load(prior)
    guidance.prepare("a frog " + "green " * 98)
    assert len(caplog.records) == 1
    message = caplog.records[0].getMessage()
    assert "the prompt has 100 tokens" in message and "\n" not in message and len(message) < 200
    assert all(not torch.equal(a, b) for a in guidance.prompts.views[:1] for b in guidance.prompts.views[1:])
    guidance.prepare("a frog " + "green " * 5)  # 12 tokens less start, end, comma, two view words
    assert len(caplog.records) == 1


def test_an_empty_prompt_is_refused(prior):
    with pytest.raises(ValueError, match="the prompt is empty"):
        load(prior, text="  ")


def test_a_stub_tokenizer_is_refused(prior, tmp_path):
    broken = shutil.copytree(prior, tmp_path / "broken")
    (broken / "tokenizer" / "tokenizer.json").unlink()
    (broken / "tokenizer" / "vocab.json").write_text("{}")
    (broken / "tokenizer" / "merges.txt").write_text("")
    with pytest.raises(ValueError, match=r"the tokenizer of .* has \d+ tokens and its text encoder \d+"):
        load(str(broken))


def test_an_inpainting_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match="reads 9 channels and its autoencoder makes 4"):
        load(save_pipeline(tmp_path, unet_channels=9))


def test_another_kind_of_pipeline_is_refused(prior, tmp_path):
    other = shutil.copytree(prior, tmp_path / "other")
    index = json.loads((other / "model_index.json").read_text()) | {"_class_name": "FluxPipeline"}
    index["text_encoder"] = ["transformers", "T5EncoderModel"]
    (other / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="is a FluxPipeline: not supported yet, only Stable Diffusion 1 and 2"):
        load(str(other))


def test_half_precision_needs_cuda(prior):
    with pytest.raises(ValueError, match="fp16 guidance needs CUDA, and the device is cpu"):
        load(prior, precision="fp16")


def test_images_and_latents_together_are_refused():
    with pytest.raises(ValueError, match="images or latents, and not both"):
        GuidanceBatch(azimuth=torch.zeros(1), elevation=torch.zeros(1), generator=torch.Generator())


@pytest.mark.parametrize("t_range", [(0.5, 0.2), (-0.1, 0.5), (0.1, 1.5)])
def test_impossible_timestep_ranges_are_refused(t_range):
    with pytest.raises(ValueError, match="t_range needs 0 <= min <= max <= 1"):
        batch(t_range=t_range)
