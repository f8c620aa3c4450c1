"""The parts the prior is built of: the tokenizer of whole words, and shapes that fit each other."""

from __future__ import annotations

import pytest
import torch

from guidance.prompts import view_prompts
from toybox import architecture
from toybox.captions import Caption
from toybox.words import OBJECTS, vocabulary, words_of


@pytest.fixture(scope="module")
def tokenizer():
    return architecture.build_tokenizer()


def ids(tokenizer, text):
    return tokenizer(text, add_special_tokens=False).input_ids


def test_every_known_word_is_one_token_of_its_own(tokenizer):
    spelt = [word for word in vocabulary() if not any(c.isdigit() for c in word)]  # CLIP cuts around digits: 3 d
    found = {word: ids(tokenizer, word) for word in spelt}
    assert {word: len(tokens) for word, tokens in found.items()} == dict.fromkeys(spelt, 1)
    assert len({tokens[0] for tokens in found.values()}) == len(found)


def test_no_prompt_of_the_prior_holds_a_digit():
    assert not any(c.isdigit() for name in OBJECTS for text in view_prompts(str(Caption(name))) for c in text)


@pytest.mark.parametrize("word", ["dragon", "frogs", "qzx", "forg", "7"])
def test_an_unknown_word_falls_into_pieces_and_comes_back(tokenizer, word):
    tokens = ids(tokenizer, word)
    known = {ids(tokenizer, each)[0] for each in vocabulary()}
    assert tokens and not (len(tokens) == 1 and tokens[0] in known)
    assert tokenizer.unk_token_id not in tokens or word == ""
    assert tokenizer.decode(tokens).strip() == word


def test_a_prompt_is_its_words_between_start_and_end(tokenizer):
    text = "an orange frog, front view"
    tokens = tokenizer(text).input_ids
    assert tokens[0] == tokenizer.bos_token_id and tokens[-1] == tokenizer.eos_token_id
    assert tokens[1:-1] == [ids(tokenizer, word)[0] for word in words_of(text)]
    assert tokenizer(text.upper()).input_ids == tokens


def test_every_prompt_fits_the_text_encoder(tokenizer):
    said = dict(colour="red", pattern="spotted", worn="hat", worn_colour="red", support="box", support_colour="red")
    longest = [text for name in OBJECTS for text in view_prompts(str(Caption(name, **said)))]
    assert max(len(tokenizer(text).input_ids) for text in longest) <= architecture.TOKENS


def test_the_tokenizer_is_the_same_each_time_it_is_built(tokenizer):
    assert architecture.build_tokenizer().get_vocab() == tokenizer.get_vocab()


def test_the_parts_fit_each_other(tokenizer):
    text_encoder, unet = architecture.build_text_encoder(tokenizer), architecture.build_unet()
    vae = architecture.build_vae()
    with torch.no_grad():
        padded = tokenizer(["a frog"], padding="max_length", max_length=architecture.TOKENS, return_tensors="pt")
        words = text_encoder(padded.input_ids)[0]
        latents = vae.encode(torch.zeros(1, 3, architecture.SIZE, architecture.SIZE)).latents
        predicted = unet(latents, torch.tensor([500]), encoder_hidden_states=words).sample
        assert latents.shape == predicted.shape == (1, architecture.LATENT_CHANNELS, 16, 16)
        assert vae.decode(latents).sample.shape == (1, 3, architecture.SIZE, architecture.SIZE)


def test_the_prior_fits_its_thirty_megabytes_in_half_precision(tokenizer):
    parts = (architecture.build_text_encoder(tokenizer), architecture.build_unet(), architecture.build_vae())
    assert 2 * sum(p.numel() for part in parts for p in part.parameters()) < 30e6
