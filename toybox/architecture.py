"""The prior: a small latent diffusion model in the ordinary diffusers layout.

128 x 128 pictures, 16 x 16 x 8 latents, v-prediction (arXiv:2202.00512): its error is bounded at every noise level,
and score distillation leans on the high ones. Other widths of the latents and the other prediction are there to be
compared with (scripts/train_toybox.py).
"""

from __future__ import annotations

import torch

from toybox.pictures import SIZE
from toybox.words import vocabulary

TOKENS = 24  # positions of the text encoder
LATENT_CHANNELS = 8  # 1.2 dB better pictures than 4 after the same minutes, and a better F-score (docs/toybox.md)
TIMESTEPS = 1000
PREDICTIONS = ("v_prediction", "epsilon")


def build_tokenizer():
    """A CLIPTokenizer in which every known word is one token (byte-pair merges learned from the words themselves)."""
    from transformers import CLIPTokenizer

    words = {word: [*word[:-1], word[-1] + "</w>"] for word in vocabulary()}
    symbols = sorted(
        {s for parts in words.values() for s in parts} | {c for c in "abcdefghijklmnopqrstuvwxyz0123456789,"}
    )
    symbols += [s + "</w>" for s in symbols if len(s) == 1 and s + "</w>" not in symbols]
    merges = []
    while True:
        pairs = {}
        for parts in words.values():
            for pair in zip(parts, parts[1:], strict=False):
                pairs[pair] = pairs.get(pair, 0) + 1
        if not pairs:
            break
        best = max(sorted(pairs), key=pairs.get)
        merges.append(best)
        words = {word: _merge(parts, best) for word, parts in words.items()}
    tokens = ["<|startoftext|>", "<|endoftext|>", *symbols, *(a + b for a, b in merges)]
    ids = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=ids, merges=merges, model_max_length=TOKENS)


def _merge(parts, pair):
    merged, i = [], 0
    while i < len(parts):
        if tuple(parts[i : i + 2]) == pair:
            merged.append(parts[i] + parts[i + 1])
            i += 2
        else:
            merged.append(parts[i])
            i += 1
    return merged


def build_vae(channels: int = LATENT_CHANNELS):
    """Autoencoder without normalisation layers: GroupNorm hides flat colour. 3 x 128 x 128 <-> channels x 16 x 16"""
    from diffusers import AutoencoderTiny

    return AutoencoderTiny(
        encoder_block_out_channels=(48,) * 4,
        decoder_block_out_channels=(48,) * 4,
        num_encoder_blocks=(0, 1, 2, 2),
        num_decoder_blocks=(2, 2, 1, 0),
        latent_channels=channels,
    )


def build_text_encoder(tokenizer):
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=256,
            projection_dim=128,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def build_unet(channels: int = LATENT_CHANNELS):
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel(
        sample_size=SIZE // 8,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=(64, 128, 192),
        layers_per_block=1,
        cross_attention_dim=128,
        attention_head_dim=4,
        norm_num_groups=16,
        addition_embed_type="text",  # the whole sentence joins the timestep, so that every block knows it
        addition_embed_type_num_heads=4,
        # No attention among the 256 places of the finest level: it took 40 % of a step.
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    )
    torch.nn.init.zeros_(unet.add_embedding.norm2.weight)  # silent at first, so that an earlier UNet can be taken over
    return unet


def build_scheduler(prediction: str = PREDICTIONS[0]):
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        num_train_timesteps=TIMESTEPS,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction,
    )


def save_pipeline(folder, *, vae, text_encoder, unet, tokenizer, scheduler):
    """Write the five parts in half precision to `folder`, loadable by StableDiffusionPipeline.from_pretrained."""
    import copy

    from diffusers import StableDiffusionPipeline

    halves = {
        name: copy.deepcopy(part).half()
        for name, part in (("vae", vae), ("text_encoder", text_encoder), ("unet", unet))
    }
    StableDiffusionPipeline(
        **halves,
        tokenizer=tokenizer,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    for path in folder.rglob("*.safetensors"):
        path.chmod(0o644)  # safetensors makes them private
