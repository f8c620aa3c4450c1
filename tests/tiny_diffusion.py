"""A Stable Diffusion pipeline of a few thousand random weights, saved in the diffusers layout without a network."""

import json
from pathlib import Path

import torch

WORDS = ["a", "green", "frog", "car", "front", "side", "back", "overhead", "view", ","]
MAX_TOKENS = 12
LATENT, IMAGE = 8, 16  # pixels: the autoencoders have two levels, so they shrink by 2


def save_pipeline(folder, vae="AutoencoderTiny", prediction_type="epsilon", unet_channels=4, seed=0):
    """Writes model_index.json, unet, vae, text_encoder, tokenizer and scheduler; returns the folder as a string."""
    from diffusers import AutoencoderKL, AutoencoderTiny, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    folder = Path(folder)
    torch.manual_seed(seed)
    unet = UNet2DConditionModel(
        sample_size=LATENT,
        in_channels=unet_channels,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        cross_attention_dim=8,
        attention_head_dim=2,
        norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )
    unet.save_pretrained(folder / "unet")
    if vae == "AutoencoderTiny":
        autoencoder = AutoencoderTiny(
            encoder_block_out_channels=(8, 8),
            decoder_block_out_channels=(8, 8),
            num_encoder_blocks=(1, 1),
            num_decoder_blocks=(1, 1),
            scaling_factor=0.7,
        )
    else:
        autoencoder = AutoencoderKL(
            block_out_channels=(8, 8),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            norm_num_groups=4,
            latent_channels=4,
            sample_size=IMAGE,
            scaling_factor=0.3,
        )
    autoencoder.save_pretrained(folder / "vae")

    vocab = {"<|startoftext|>": 0, "<|endoftext|>": 1} | {f"{word}</w>": i for i, word in enumerate(WORDS, 2)}
    letters = sorted(set("".join(WORDS)))
    for piece in [c for c in letters] + [f"{c}</w>" for c in letters]:
        vocab.setdefault(piece, len(vocab))
    merges = []
    for word in WORDS:  # each word grows letter by letter into its token
        for i in range(1, len(word)):
            left, right = word[:i], word[i] + ("</w>" if i == len(word) - 1 else "")
            vocab.setdefault(left + right, len(vocab))
            if (left, right) not in merges:
                merges.append((left, right))
    tokenizer = CLIPTokenizer(vocab=vocab, merges=merges, unk_token="<|endoftext|>", model_max_length=MAX_TOKENS)
    tokenizer.save_pretrained(folder / "tokenizer")
    CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=8,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=MAX_TOKENS,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        )
    ).save_pretrained(folder / "text_encoder")
    DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, prediction_type=prediction_type
    ).save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", vae],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    return str(folder)


def save_deepfloyd(folder, seed=0):
    """A DeepFloyd IF pipeline as small: pixels of 16 x 16, T5, a UNet that also predicts its variance."""
    from diffusers import DDPMScheduler, UNet2DConditionModel
    from transformers import T5Config, T5EncoderModel, T5TokenizerFast

    folder = Path(folder)
    torch.manual_seed(seed)
    UNet2DConditionModel(
        sample_size=IMAGE,
        in_channels=3,
        out_channels=6,
        block_out_channels=(8, 16),
        layers_per_block=1,
        cross_attention_dim=8,
        encoder_hid_dim=12,
        encoder_hid_dim_type="text_proj",
        attention_head_dim=2,
        norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ).save_pretrained(folder / "unet")
    pieces = [*(f"▁{word}" for word in WORDS), ",", *sorted(set("".join(WORDS)) - {","})]
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -10.0), *((piece, -2.0) for piece in pieces)]
    tokenizer = T5TokenizerFast(vocab=vocab, extra_ids=0, model_max_length=MAX_TOKENS)
    tokenizer.save_pretrained(folder / "tokenizer")
    T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer) + 3,  # rounded up, as the true one is
            d_model=12,
            d_kv=4,
            d_ff=16,
            num_layers=1,
            num_heads=3,
            pad_token_id=0,
            eos_token_id=1,
        )
    ).save_pretrained(folder / "text_encoder")
    DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="epsilon").save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "IFPipeline",
        "scheduler": ["diffusers", "DDPMScheduler"],
        "text_encoder": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", "T5Tokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "safety_checker": ["deepfloyd_if", "IFSafetyChecker"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    return str(folder)
