"""scripts/denoising.py: captions, and that the gradient that is followed is the one of the loss."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from guidance.prompts import SIDED_WORDS
from scripting import load_script
from toybox import architecture


@pytest.fixture(scope="module")
def script():
    return load_script("denoising")


@pytest.fixture(scope="module")
def captions(script):
    data = SimpleNamespace(
        captions=np.array(["a frog", "a red car", "a frog", "a cat wearing a hat"]),
        azimuth=np.array([0.0, 90.0, -90.0, 45.0]),
        elevation=np.zeros(4),
    )
    return script.Captions(architecture.build_tokenizer(), data)


def test_a_picture_is_described_by_the_words_of_its_view(captions):
    pick, said = torch.arange(4).repeat(500), []
    ids, weights = captions.blend(pick, torch.Generator().manual_seed(0))
    assert (weights.sum(1) - 1).abs().max() < 1e-6
    words = {tuple(row.tolist()): text for row, text in zip(captions.ids, texts(captions), strict=True)}
    for row, picture in zip(weights[:, :], pick.tolist(), strict=True):
        said.append((picture, tuple(sorted(words[tuple(ids[i].tolist())] for i in row.nonzero()[:, 0]))))
    share = lambda picture, *wanted: said.count((picture, wanted)) / 500  # noqa: E731
    for picture, words_ in (
        (0, "a frog, front view"),
        (1, "a red car, left side view"),
        (2, "a frog, right side view"),
    ):
        assert 0.7 < share(picture, words_) < 0.9
        assert 0.05 < share(picture, words_.split(",")[0]) < 0.15 and 0.05 < share(picture, "") < 0.15
    assert share(3, "a cat wearing a hat, front view", "a cat wearing a hat, left side view") > 0.6


def texts(captions):
    """What each row of `captions.ids` says."""
    phrases = ("a cat wearing a hat", "a frog", "a red car")
    return [phrase + suffix for phrase in phrases for suffix in ("", *(f", {word}" for word in SIDED_WORDS))] + [""]


def drawn(script, texts, azimuth):
    """How often each picture but the last, which is kept back, is drawn."""
    azimuth = np.asarray(azimuth, float)
    data = SimpleNamespace(captions=np.array(texts), azimuth=azimuth, elevation=np.zeros(len(texts)))
    picks = script.Captions(architecture.build_tokenizer(), data).pick(10_000, torch.Generator().manual_seed(0))
    return picks.bincount(minlength=len(texts)) / 10_000


def test_what_few_pictures_say_is_drawn_more_often_and_what_is_kept_back_never(script):
    texts = ["a frog", "a cat wearing a hat", "a car on a box", "a cat wearing a hat on a box", "a frog"]
    expected = torch.tensor([1, script.WORN_TIMES, script.SUPPORT_TIMES, script.WORN_TIMES * script.SUPPORT_TIMES, 0])
    assert torch.allclose(drawn(script, texts, [90] * 5), expected / expected.sum(), atol=0.02)


def test_fronts_and_backs_are_drawn_more_often_of_what_has_them(script):
    texts = ["a frog", "a frog", "a frog", "a frog", "a tree", "a tree", "a frog"]
    expected = torch.tensor([script.FACED_TIMES, script.FACED_TIMES, 1, 1, 1, 1, 0])
    shares = drawn(script, texts, [0, 180, 90, 50, 0, 90, 0])
    assert torch.allclose(shares, expected / expected.sum(), atol=0.02)


def test_what_the_words_are_worth_is_measured_on_pictures_kept_back(script):
    """A model that knows the picture from its words, and nothing about the noise."""
    count = 64 * 200
    data = SimpleNamespace(captions=np.full(count, "a frog"), azimuth=np.zeros(count), elevation=np.zeros(count))
    captions, latents = script.Captions(architecture.build_tokenizer(), data), torch.zeros(count, 8, 16, 16)
    latents[captions.unseen :] = 1.0
    scheduler = architecture.build_scheduler()
    alphas = scheduler.alphas_cumprod
    spread = (1 - alphas).sqrt()

    def text_encoder(ids):
        return ((ids != captions.ids[captions.empty]).any(1).float()[:, None, None].expand(-1, architecture.TOKENS, 4),)

    def unet(noisy, t, encoder_hidden_states):
        return SimpleNamespace(sample=-(encoder_hidden_states[:, 0, 0] * spread[t])[:, None, None, None] * noisy**0)

    figures = script.Unseen(captions, latents, scheduler).measure({"text_encoder": text_encoder, "unet": unet})
    said = 1 - script.DROP_ALL  # where the words are dropped, they are missing from the loss with them, too
    assert figures["words"] == pytest.approx(said * (1 - alphas)[500:].mean().item(), rel=0.1)
    assert figures["unseen"] > figures["high"] > 0


@pytest.mark.parametrize("prediction", architecture.PREDICTIONS)
def test_a_model_that_predicts_what_it_should_has_no_error(script, prediction):
    generator, t = torch.Generator().manual_seed(0), torch.tensor([0, 500, 999])
    z, noise = (torch.randn(3, 4, 16, 16, generator=generator) for _ in range(2))
    scheduler = architecture.build_scheduler(prediction)
    a, s = (x.sqrt()[:, None, None, None] for x in (scheduler.alphas_cumprod[t], 1 - scheduler.alphas_cumprod[t]))
    wanted = noise if prediction == "epsilon" else a * noise - s * z

    def unet(noisy, timesteps, encoder_hidden_states):
        torch.testing.assert_close(noisy, a * z + s * noise)
        return SimpleNamespace(sample=wanted + torch.tensor([0.0, 1.0, 2.0])[:, None, None, None])

    model = {"unet": unet, "text_encoder": lambda ids: (torch.zeros(1, 2, 4),)}
    found = script.errors(model, scheduler, z, noise, t, torch.zeros(1, 2), torch.ones(3, 1))
    torch.testing.assert_close(found, torch.tensor([0.0, 1.0, 4.0]))


def test_the_gradient_that_is_followed_is_that_of_the_loss_in_float32(script, captions, monkeypatch):
    """Nothing but a prior that never learns would show it."""

    def gradients(precise):
        torch.manual_seed(0)
        tokenizer = architecture.build_tokenizer()
        parts = architecture.build_text_encoder(tokenizer), architecture.build_unet()
        if precise:
            model = torch.nn.ModuleDict(dict(zip(("text_encoder", "unet"), parts, strict=True)))
            monkeypatch.setattr(script, "autocast", lambda device: torch.autocast("cpu", enabled=False))
        else:
            model = script.for_training(*parts, "cpu")
        generator = torch.Generator().manual_seed(1)
        z, noise = (torch.randn(16, 8, 16, 16, generator=generator) for _ in range(2))
        t = torch.arange(16) * 62
        told = captions.blend(torch.arange(4).repeat(4), generator)
        loss = script.errors(model, architecture.build_scheduler(), z, noise, t, *told).mean()
        loss.backward()
        return loss.detach(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    (loss, followed), (exact_loss, exact) = gradients(False), gradients(True)
    assert torch.isclose(loss, exact_loss, rtol=1e-2)
    assert torch.cosine_similarity(followed, exact, 0) > 0.98
    assert 0.95 < followed.norm() / exact.norm() < 1.05


def test_queries_and_keys_that_have_grown_are_tempered_and_others_left_alone(script, captions):
    torch.manual_seed(0)
    model = script.for_training(
        architecture.build_text_encoder(architecture.build_tokenizer()), architecture.build_unet(), "cpu"
    )
    generator = torch.Generator().manual_seed(1)
    z, noise = (torch.randn(4, 8, 16, 16, generator=generator) for _ in range(2))
    scheduler = architecture.build_scheduler()
    told = captions.blend(torch.arange(4), generator)
    forward = lambda: script.errors(model, scheduler, z, noise, torch.arange(4) * 200, *told)  # noqa: E731
    attention = model["unet"].mid_block.attentions[0].transformer_blocks[0].attn1
    with torch.no_grad():
        attention.to_q.weight.mul_(300)
    before = {name: p.clone() for name, p in model.named_parameters()}
    script.temper(model, forward)
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {f"unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_{part}.weight" for part in "qk"}
    seen = {}
    for part in ("to_q", "to_k"):
        getattr(attention, part).register_forward_hook(lambda _, __, out, part=part: seen.update({part: out.float()}))
    forward()
    q, k = (seen[part].unflatten(-1, (4, -1)).transpose(1, 2) for part in ("to_q", "to_k"))
    logits = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    assert (logits.amax(-1) - logits.mean(-1)).median().item() == pytest.approx(4, rel=0.1)


def test_queries_and_keys_learn_slowly_and_everything_learns(script):
    model = torch.nn.ModuleDict(
        {
            "text_encoder": architecture.build_text_encoder(architecture.build_tokenizer()),
            "unet": architecture.build_unet(),
        }
    )
    plain, slow = script.groups(model)
    assert len(plain["params"]) + len(slow["params"]) == len(list(model.parameters()))
    assert len(slow["params"]) == 2 * 14 + 4 * 3 + 4 and slow["share"] == 0.1  # with biases in text encoder and pool
