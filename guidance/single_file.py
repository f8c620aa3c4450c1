"""Stable Diffusion in one .safetensors or .ckpt file, as its authors and most collections publish it.

torch and diffusers are imported where they are needed: the names in a .safetensors file are read without them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from guidance.layout import Unusable, header

PREFIXES = {"unet": "model.diffusion_model.", "vae": "first_stage_model.", "text_encoder": "cond_stage_model."}
CLIP, OPEN_CLIP = "cond_stage_model.transformer.", "cond_stage_model.model."  # the text encoder of version 1, of 2
OTHERS = {"conditioner.embedders.": "Stable Diffusion XL", "model.diffusion_model.joint_blocks.": "Stable Diffusion 3"}


def version(path: Path, sd_version: str) -> str:
    """The version that a file is of: "1.5", or `sd_version` of 2.0 and 2.1, which look the same.

    Raises:
        Unusable: it is another family, cut short, or lacks a part.
    """
    names = header(path) if path.suffix == ".safetensors" else state_dict(path)
    for prefix, family in OTHERS.items():
        if any(name.startswith(prefix) for name in names):
            raise Unusable(f"is {family}: not supported yet, only Stable Diffusion 1 and 2")
    missing = [part for part, prefix in PREFIXES.items() if not any(name.startswith(prefix) for name in names)]
    if missing:
        raise Unusable(f"lacks the {' and the '.join(missing)} of a Stable Diffusion 1 or 2 checkpoint")
    if any(name.startswith(CLIP) for name in names):
        return "1.5"
    if any(name.startswith(OPEN_CLIP) for name in names):
        return sd_version if sd_version.startswith("2") else "2.1"
    raise Unusable("has a text encoder that is neither CLIP's nor OpenCLIP's")


def state_dict(path: Path) -> dict[str, Any]:
    """All tensors of the file, mapped into memory.

    Raises:
        Unusable: it cannot be read, or holds more than tensors, which might be a program.
    """
    import pickle

    from diffusers.loaders.single_file_utils import load_single_file_checkpoint

    try:
        return load_single_file_checkpoint(str(path))
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        reason = " ".join(str(error).split())[:120]
        raise Unusable(f"cannot be read ({reason}): save it as .safetensors") from None


def load_part(path: Path, folder: Path, model_class: type, part: str) -> Any:
    """One part of the model with the weights of the file, float32.

    Args:
        path: The file.
        folder: Holds the part's configuration.
        model_class: Of diffusers, or transformers' CLIPTextModel.
        part: unet, vae or text_encoder.

    Raises:
        Unusable: the weights are not those of this architecture.
    """
    from diffusers.loaders import single_file_utils as convert

    tensors = state_dict(path)
    if part == "text_encoder":
        model = model_class(model_class.config_class.from_pretrained(str(folder), subfolder=part))
        if any(name.startswith(CLIP) for name in tensors):
            ours = convert.convert_ldm_clip_checkpoint(tensors)
        else:
            ours = convert.convert_open_clip_checkpoint(model, tensors, prefix=OPEN_CLIP)
        if not hasattr(model, "text_model"):  # transformers 5 has one level less
            ours = {name.removeprefix("text_model."): tensor for name, tensor in ours.items()}
    else:
        config = json.loads((folder / part / "config.json").read_text(encoding="utf-8"))
        model = model_class.from_config(config)
        function = convert.convert_ldm_unet_checkpoint if part == "unet" else convert.convert_ldm_vae_checkpoint
        ours = function(tensors, config=model.config)
    expected = model.state_dict()
    wrong = [
        name
        for name, tensor in expected.items()
        if "position_ids" not in name and (name not in ours or ours[name].shape != tensor.shape)
    ]
    if wrong:
        raise Unusable(f"does not hold the {part} of this version: {wrong[0]} is missing or has another shape")
    model.load_state_dict({name: ours[name] for name in expected if name in ours}, strict=False)
    return model
