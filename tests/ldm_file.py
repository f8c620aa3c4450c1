"""Stable Diffusion of a few thousand weights in one file, under the names of its authors, not of diffusers."""

from __future__ import annotations

import re
from pathlib import Path

import torch

WIDTHS = (32, 32, 32, 32)
UNET = dict(sample_size=8, block_out_channels=WIDTHS, cross_attention_dim=16, attention_head_dim=4, norm_num_groups=8)
VAE = dict(
    block_out_channels=(8, 8, 8, 8),
    down_block_types=("DownEncoderBlock2D",) * 4,
    up_block_types=("UpDecoderBlock2D",) * 4,
    layers_per_block=2,
    norm_num_groups=4,
    sample_size=64,
)
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
VAE_PARTS = {
    "conv_shortcut": "nin_shortcut",
    "conv_norm_out": "norm_out",
    "group_norm": "norm",
    "to_out.0": "proj_out",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
}


def unet_name(name: str) -> str:
    """diffusers' name of a weight of a UNet of four blocks with two layers -> that of its authors."""
    stem, _, leaf = name.rpartition(".")
    if stem in UNET_ENDS:
        return f"{UNET_ENDS[stem]}.{leaf}"
    if match := re.match(r"mid_block\.(resnets|attentions)\.(\d)\.(.*)", name):
        kind, i, rest = match.groups()
        place = 1 if kind == "attentions" else 2 * int(i)
        return f"middle_block.{place}.{_inside(kind, rest)}"
    kind, block, part, i, rest = re.match(r"(down|up)_blocks\.(\d)\.(\w+)\.(\d)\.(.*)", name).groups()
    block, i = int(block), int(i)
    if kind == "down":
        if part == "downsamplers":
            return f"input_blocks.{3 * block + 3}.0.op.{leaf}"
        return f"input_blocks.{3 * block + i + 1}.{int(part == 'attentions')}.{_inside(part, rest)}"
    if part == "upsamplers":
        return f"output_blocks.{3 * block + 2}.{1 if block == 0 else 2}.conv.{leaf}"
    return f"output_blocks.{3 * block + i}.{int(part == 'attentions')}.{_inside(part, rest)}"


def _inside(part: str, rest: str) -> str:
    if part == "attentions":
        return rest
    stem, _, leaf = rest.rpartition(".")
    return f"{RESNET[stem]}.{leaf}"


def vae_name(name: str) -> str:
    """The same for an autoencoder of four blocks."""
    for ours, theirs in VAE_PARTS.items():
        name = re.sub(rf"(?<=\.){re.escape(ours)}(?=\.)", theirs, name)
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    name = name.replace("mid_block.attentions.0", "mid.attn_1")
    name = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", name)
    name = re.sub(r"up_blocks\.(\d)\.resnets", lambda m: f"up.{3 - int(m[1])}.block", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
    return re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{3 - int(m[1])}.upsample", name)


OPEN_CLIP = {
    "encoder.layers": "transformer.resblocks",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn": "attn",
    "final_layer_norm": "ln_final",
    "embeddings.token_embedding": "token_embedding",
    "embeddings.position_embedding.weight": "positional_embedding",
}


def open_clip(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The text encoder of version 2: queries, keys and values in one matrix."""
    named, joined = {}, {}
    for name, value in weights.items():
        name = name.removeprefix("text_model.")
        for ours, theirs in OPEN_CLIP.items():
            name = name.replace(ours, theirs)
        if match := re.match(r"(.*\.attn)\.([qkv])_proj\.(weight|bias)", name):
            joined.setdefault(f"{match[1]}.in_proj_{match[3]}", {})[match[2]] = value
        else:
            named[name] = value
    return named | {name: torch.cat([some[letter] for letter in "qkv"]) for name, some in joined.items()}


def tensors(unet, vae, text_encoder, version: int = 1) -> dict[str, torch.Tensor]:
    """The weights of the three under their authors' names."""
    named = {f"model.diffusion_model.{unet_name(name)}": value for name, value in unet.state_dict().items()}
    for name, value in vae.state_dict().items():
        linear = "attentions" in name and name.endswith("weight") and value.dim() == 2  # convolutions at their authors'
        named[f"first_stage_model.{vae_name(name)}"] = value[:, :, None, None] if linear else value
    words = text_encoder.state_dict()
    if version == 1:
        words = {f"transformer.text_model.{name.removeprefix('text_model.')}": value for name, value in words.items()}
    else:
        words = {f"model.{name}": value for name, value in open_clip(words).items()}
    named |= {f"cond_stage_model.{name}": value for name, value in words.items()}
    return {name: value.contiguous().clone() for name, value in named.items()}


def save_file(folder: Path, path: Path, version: int = 1) -> dict[str, torch.nn.Module]:
    """Replace unet and vae of the diffusers folder by some of the usual four blocks, and write all three to `path`.

    Returns: {part: the model}
    """
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from safetensors.torch import save_file
    from transformers import CLIPTextModel

    torch.manual_seed(3)
    width = CLIPTextModel.from_pretrained(folder / "text_encoder").config.hidden_size
    parts = {
        "unet": UNet2DConditionModel(**UNET | {"cross_attention_dim": width}),
        "vae": AutoencoderKL(**VAE),
        "text_encoder": CLIPTextModel.from_pretrained(folder / "text_encoder"),
    }
    for part in ("unet", "vae"):
        parts[part].save_pretrained(folder / part)
    if path.suffix == ".ckpt":
        torch.save({"state_dict": tensors(**parts, version=version), "global_step": 1}, path)
    else:
        save_file(tensors(**parts, version=version), path)
    return parts
