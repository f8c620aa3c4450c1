"""guidance/deepfloyd.py: pixels instead of latents, T5 instead of CLIP."""

from __future__ import annotations

import importlib.util
import shutil

import pytest
import torch

import tiny_diffusion
from guidance import distill, layout, parts, weights
from guidance.deepfloyd import ROOM_FOR_T5, DeepFloyd
from guidance.types import GuidanceBatch
from mock_hub import Repo, mock_hub
from nerf import build, cli
from tiny_run import STEPS, maker


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_diffusion.save_deepfloyd(tmp_path_factory.mktemp("deepfloyd"))


@pytest.fixture(scope="module")
def guidance(folder):
    guidance = DeepFloyd(folder)
    guidance.prepare("a green frog")
    return guidance


def given(pictures, **options):
    zero = torch.zeros(len(pictures))
    generator = torch.Generator().manual_seed(0)
    return GuidanceBatch(images=pictures, azimuth=zero, elevation=zero, generator=generator, **options)


def test_the_gradient_at_the_picture_is_the_score_difference(guidance):
    pictures = torch.rand(2, 3, 16, 16, requires_grad=True)
    guidance(given(pictures, guidance_scale=7.0, t_range=(0.5, 0.5))).loss.backward()
    with torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        t = guidance._draw_timesteps(given(pictures.detach(), t_range=(0.5, 0.5)))
        torch.randint(500, 501, (2,), generator=generator)  # the timesteps come first
        noise = torch.randn(pictures.shape, generator=generator)
        noisy = distill.add_noise(pictures.detach() * 2 - 1, noise, guidance.alphas_cumprod[t])
        words = guidance.prompts.condition(torch.zeros(2), torch.zeros(2), guidance.views)
        uncond, positive = (
            guidance.unet(noisy, t, encoder_hidden_states=e).sample[:, :3] for e in (words.uncond, words.positive)
        )
        expected = distill.sds_gradient(uncond + 7.0 * (positive - uncond), noise, guidance.alphas_cumprod[t])
    assert torch.allclose(pictures.grad, 2 * expected / 2, rtol=1e-4, atol=1e-5)  # d(2 x - 1) = 2, mean of two


def test_the_prompt_is_what_t5_says_and_t5_is_dropped(guidance, folder):
    from transformers import T5EncoderModel, T5TokenizerFast

    tokenizer = T5TokenizerFast.from_pretrained(f"{folder}/tokenizer")
    encoder = T5EncoderModel.from_pretrained(f"{folder}/text_encoder").eval()
    text = "a green frog, front view"
    tokens = tokenizer(text, padding="max_length", max_length=tiny_diffusion.MAX_TOKENS, return_tensors="pt")
    with torch.no_grad():
        expected = encoder(tokens.input_ids, attention_mask=tokens.attention_mask)[0]
    assert torch.allclose(guidance.prompts.views[0], expected[0], atol=1e-6)
    assert not hasattr(guidance, "text_encoder") and not hasattr(guidance, "tokenizer")


@pytest.mark.parametrize(
    "beside, free, place",
    [
        (ROOM_FOR_T5 + 0.1, 80.0, "cuda"),
        (ROOM_FOR_T5 - 0.1, 80.0, "cpu"),  # of --vram, the UNet has the rest
        (float("inf"), ROOM_FOR_T5 + 0.1, "cuda"),
        (float("inf"), ROOM_FOR_T5 - 0.1, "cpu"),
    ],
)
def test_t5_goes_to_the_gpu_where_it_fits_beside_the_unet(folder, monkeypatch, beside, free, place):
    guidance = DeepFloyd(folder)
    guidance.vram = guidance.gigabytes + beside
    guidance.device = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free * 1e9, 80e9))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    assert guidance._text_place() == (torch.bfloat16, torch.device(place))


def test_pictures_are_the_latents(guidance):
    pictures = torch.rand(1, 3, 16, 16)
    assert torch.allclose(guidance.decode(guidance.encode(pictures)), pictures, atol=1e-6)
    out = guidance(given(torch.rand(1, 3, 32, 32), want_pictures=True))
    assert out.pictures.shape == (3, 3, 16, 16)


def test_a_long_prompt_keeps_its_view(folder, caplog):
    guidance = DeepFloyd(folder)
    guidance.prepare("a green frog car " * 5)
    assert "left out" in caplog.text
    views = guidance.prompts.views
    assert not torch.equal(views[0], views[1])


def test_stable_diffusion_and_deepfloyd_are_not_taken_for_each_other(folder, tmp_path):
    other = tiny_diffusion.save_pipeline(tmp_path / "sd")
    with pytest.raises(ValueError, match="cannot load DeepFloyd IF .* is a StableDiffusionPipeline: not supported yet"):
        weights.locate([other], family=layout.DEEPFLOYD)
    with pytest.raises(ValueError, match="cannot load Stable Diffusion .* is a IFPipeline: not supported yet"):
        weights.locate([folder])


def test_weights_in_pieces_are_chosen_whole_or_not_at_all():
    base = [*layout.DEEPFLOYD.configs, "tokenizer/spiece.model", "unet/diffusion_pytorch_model.fp16.safetensors"]
    pieces = [f"text_encoder/model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    index = "text_encoder/model.safetensors.index.json"
    chosen, variants = layout.choose_files([*base, *pieces, index, "extra"], half=True, family=layout.DEEPFLOYD)
    assert set(chosen) == {*base, *pieces, index} and variants == {"unet": "fp16", "text_encoder": None}
    half = [f"text_encoder/model.fp16-0000{i}-of-00002.safetensors" for i in (1, 2)]
    half_index = "text_encoder/model.safetensors.index.fp16.json"
    both = [*base, *pieces, index, *half, half_index]
    assert set(layout.choose_files(both, half=True, family=layout.DEEPFLOYD)[0]) == {*base, *half, half_index}
    with pytest.raises(layout.Unusable, match="lacks text_encoder/model.safetensors"):
        layout.choose_files([*base, pieces[0], index], family=layout.DEEPFLOYD)


@pytest.fixture
def pieces(folder, tmp_path):
    """The same with a tokenizer as DeepFloyd publishes it, which is sentencepiece's file alone."""
    sentencepiece = pytest.importorskip("sentencepiece")
    shutil.copytree(folder, tmp_path / "pieces")
    tokenizer = tmp_path / "pieces" / "tokenizer"
    shutil.rmtree(tokenizer)
    tokenizer.mkdir()
    sentences = iter([" ".join(tiny_diffusion.WORDS), "a green frog, front view"])
    with (tokenizer / "spiece.model").open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=sentences,
            model_writer=file,
            vocab_size=30,
            hard_vocab_limit=False,
            minloglevel=2,
            **dict(pad_id=0, eos_id=1, unk_id=2, bos_id=-1),  # T5's
        )
    return tmp_path / "pieces"


def test_the_tokenizer_that_deepfloyd_publishes_is_read_as_sentencepiece_reads_it(pieces):
    import sentencepiece

    ours = parts.open_parts(weights.locate([str(pieces)], family=layout.DEEPFLOYD)).tokenizer()
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(pieces / "tokenizer" / "spiece.model"))
    text = "a green frog, side view"
    assert ours(text).input_ids == [*theirs.encode(text), ours.eos_token_id]


def test_without_sentencepiece_one_line_says_so_before_the_weights_are_fetched(pieces, tmp_path, monkeypatch):
    content = {path.relative_to(pieces).as_posix(): path.read_bytes() for path in pieces.rglob("*") if path.is_file()}
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "sentencepiece" else found(name))
    with mock_hub(monkeypatch, tmp_path / "hub") as server:
        server.repos["a/deepfloyd"] = Repo(content)
        with pytest.raises(
            ValueError, match="has a tokenizer that sentencepiece reads, .*: pip install -r requirements.txt"
        ):
            weights.locate(["a/deepfloyd"], family=layout.DEEPFLOYD)
        assert server.downloaded() == ["model_index.json"]


@pytest.mark.parametrize("words, name", [([], "SD"), (["--IF"], "IF"), (["--guidance", "IF"], "IF")])
def test_it_is_what_download_fetches_where_it_is_asked_for(words, name):
    assert cli.parse(["download", *words]).config.guidance.guidance == (name,)


@pytest.mark.parametrize("words", [["--IF"], ["--guidance", "IF"]])
def test_it_is_chosen_by_either_spelling_and_trains_on_pictures_from_the_start(words, monkeypatch, folder):
    request = cli.parse(["--text", "a frog", *words, "--hf_key", folder])
    assert request.config.guidance.guidance == ("IF",)
    assert request.config.training.latent_iter_ratio == 0


def test_a_run_with_it_ends(tmp_path, monkeypatch, folder):
    make = maker("nowhere", tmp_path, monkeypatch)
    made = make(guidance=("IF",), hf_key=folder, latent_iter_ratio=0.0)
    assert isinstance(made.guidance["IF"], DeepFloyd)
    assert made.train() and made.step == STEPS


def test_it_is_built_like_the_others(folder):
    from nerf.config import Config

    config = Config().updated(dict(text="a frog", guidance=("IF",), hf_key=folder))
    assert set(build.build_guidance(config)) == {"IF"}
