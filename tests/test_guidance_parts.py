"""guidance/single_file.py and guidance/parts.py: models from one file, and random ones of the true size."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from guidance import layout, parts, single_file, weights
from guidance.stable_diffusion import StableDiffusion
from guidance.types import GuidanceBatch
from ldm_file import save_file
from tiny_diffusion import save_pipeline


@pytest.fixture(scope="module", params=["1.safetensors", "2.safetensors", "1.ckpt"])
def single(request, tmp_path_factory):
    """A file, the models it was made of, and the folder that stands for the mirrors of its version."""
    folder = Path(save_pipeline(tmp_path_factory.mktemp("pipeline"), vae="AutoencoderKL"))
    path = folder.parent / f"{folder.name}-{request.param}"
    return path, save_file(folder, path, version=int(request.param[0])), folder


@pytest.fixture
def mirror(single, monkeypatch):
    for version in ("1.5", "2.1"):
        monkeypatch.setitem(weights.SOURCES, version, [str(single[2])])


def test_a_single_file_gives_the_models_it_was_made_of(single, mirror):
    import diffusers
    from transformers import CLIPTextModel

    path, made, folder = single
    opened = parts.open_parts(weights.locate([str(path)]))
    for part, model_class in (
        ("unet", diffusers.UNet2DConditionModel),
        ("vae", diffusers.AutoencoderKL),
        ("text_encoder", CLIPTextModel),
    ):
        ours = opened.load(model_class, part, torch.float32).state_dict()
        theirs = made[part].state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_single_file_guides(single, mirror):
    prior = StableDiffusion(str(single[0]))
    prior.prepare("a green frog")
    pictures = torch.rand(1, 3, 64, 64, requires_grad=True)
    zero, generator = torch.zeros(1), torch.Generator().manual_seed(0)
    prior(GuidanceBatch(images=pictures, azimuth=zero, elevation=zero, generator=generator)).loss.backward()
    assert pictures.grad.abs().max() > 0


def test_what_a_single_file_predicts_is_said_where_it_is_assumed_and_can_be_typed(single, mirror, caplog):
    path = str(single[0])
    assumed = StableDiffusion(path)
    assert f"{path} is taken to predict epsilon" in caplog.text and "--prediction_type v_prediction" in caplog.text
    caplog.clear()
    told = StableDiffusion(path, prediction_type="v_prediction")
    assert not caplog.text
    noisy, t, words = torch.randn(1, 4, 8, 8), torch.tensor([400]), torch.randn(1, 7, 8)
    v, alpha = assumed.predict_noise(noisy, t, words), assumed.alphas_cumprod[400]  # the output of both
    assert torch.allclose(told.predict_noise(noisy, t, words), alpha.sqrt() * v + (1 - alpha).sqrt() * noisy)


def test_a_file_without_one_of_the_weights_is_refused_instead_of_filled_at_random(single, mirror, tmp_path):
    from diffusers import UNet2DConditionModel
    from safetensors.torch import save_file as save

    path, _, folder = single
    tensors = single_file.state_dict(path)
    lost = {k: v.clone() for k, v in tensors.items() if k != "model.diffusion_model.middle_block.1.proj_in.weight"}
    save(lost, tmp_path / "lost.safetensors")
    with pytest.raises(ValueError, match="does not hold the unet of this version: mid_block.attentions.0.proj_in.weig"):
        single_file.load_part(tmp_path / "lost.safetensors", folder, UNet2DConditionModel, "unet")


@pytest.mark.parametrize(
    "names, said",
    [
        (["conditioner.embedders.0.x", "model.diffusion_model.x", "first_stage_model.x"], "is Stable Diffusion XL"),
        (["model.diffusion_model.joint_blocks.0.x"], "is Stable Diffusion 3"),
        (["model.diffusion_model.x", "cond_stage_model.model.x"], "lacks the vae of"),
        (["lora_unet_down.x"], "lacks the unet and the vae and the text_encoder of"),
        (["model.diffusion_model.x", "first_stage_model.x", "cond_stage_model.t5.x"], "neither CLIP's nor OpenCLIP's"),
    ],
)
def test_a_file_of_another_kind_is_said_to_be_one(tmp_path, names, said):
    from safetensors.torch import save_file as save

    path = tmp_path / "other.safetensors"
    save({name: torch.zeros(1) for name in names}, path)
    with pytest.raises(ValueError, match=said):
        weights.locate([str(path)])


@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html>", b"\xff" * 100])
@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_a_file_that_is_no_checkpoint_is_refused_in_one_line(tmp_path, content, suffix):
    path = tmp_path / f"page{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="be read") as caught:
        weights.locate([str(path)])
    assert "\n" not in str(caught.value)


def test_the_second_version_is_known_by_its_text_encoder(tmp_path):
    from safetensors.torch import save_file as save

    names = ["model.diffusion_model.x", "first_stage_model.x", "cond_stage_model.model.x"]
    save({name: torch.zeros(1) for name in names}, tmp_path / "two.safetensors")
    assert single_file.version(tmp_path / "two.safetensors", "2.0") == "2.0"
    assert single_file.version(tmp_path / "two.safetensors", "1.5") == "2.1"


def test_a_tokenizer_that_cannot_be_had_is_said_to_be_what_is_missing(single, monkeypatch):
    for version in ("1.5", "2.1"):
        monkeypatch.setitem(weights.SOURCES, version, ["a/b"])
    with pytest.raises(
        ValueError, match="has no tokenizer; that of Stable Diffusion [12].[15].*a/b: is not completely in"
    ):
        weights.locate([str(single[0])], local_files_only=True)


@pytest.mark.parametrize(  # what the published weights have
    "name, unet, text_encoder",
    [("random:sd15", 859_520_964, 123_060_480), ("random:sd21", 865_910_724, 340_387_840)],
)
def test_random_weights_have_the_true_architecture(name, unet, text_encoder, caplog):
    import diffusers
    from transformers import CLIPTextModel

    opened = parts.open_parts(weights.locate([name]))
    assert "RANDOM WEIGHTS" in caplog.text
    with torch.device("meta"):
        models = {
            "unet": opened.load(diffusers.UNet2DConditionModel, "unet", torch.float16),
            "vae": opened.load(diffusers.AutoencoderKL, "vae", torch.float16),
            "text_encoder": opened.load(CLIPTextModel, "text_encoder", torch.float16),
        }
    count = {part: sum(p.numel() for p in model.parameters()) for part, model in models.items()}
    assert count == {"unet": unet, "vae": 83_653_863, "text_encoder": text_encoder}
    assert all(p.dtype == torch.float16 for model in models.values() for p in model.parameters())
    assert len(opened.tokenizer()) == models["text_encoder"].config.vocab_size
    assert torch.get_default_dtype() == torch.float32


def test_random_weights_are_never_taken_for_a_path_and_others_are_refused():
    with pytest.raises(ValueError, match="--hf_key random:sdxl: random weights are random:sd15 or random:sd21"):
        weights.locate(["random:sdxl"])


def test_the_header_of_a_whole_file_lists_its_tensors(single):
    path = single[0]
    if path.suffix == ".safetensors":
        assert layout.header(path).keys() == single_file.state_dict(path).keys()
        assert json.dumps(layout.header(path))


def test_numbers_that_are_drawn_once_have_the_spread_that_was_asked_for():
    own = torch.Tensor.normal_
    with parts.drawn_once():
        normal, uniform = torch.empty(1100, 1024).normal_(1.0, std=0.5), torch.empty(3000).uniform_(-2, -1)
    assert normal.mean() == pytest.approx(1, abs=0.01) and normal.std() == pytest.approx(0.5, abs=0.01)
    assert -2 <= uniform.min() < -1.9 and -1.1 < uniform.max() <= -1
    assert len(normal.unique(dim=0)) == len(normal)  # more of them than are drawn, and no row is another's copy
    assert torch.Tensor.normal_ is own
