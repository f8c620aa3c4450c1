"""Which files of a diffusers folder are Stable Diffusion, and whether they are whole. Imports nothing heavy."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

CONFIGS = ["model_index.json", "scheduler/scheduler_config.json"] + [
    f"{part}/config.json" for part in ("unet", "vae", "text_encoder")
]
WEIGHTS = {  # of each part, the best first
    "unet": ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"),
    "vae": ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"),
    "text_encoder": ("model.safetensors", "pytorch_model.bin"),
}
AUTOENCODERS = ("AutoencoderKL", "AutoencoderTiny")
LONGEST_HEADER = 100_000_000  # bytes; safetensors refuses longer ones, too


class Unusable(ValueError):
    """A folder, file or repository is not a whole Stable Diffusion model; the message goes after its name."""


def choose_files(
    files: Iterable[str], half: bool = False, weights: bool = True
) -> tuple[list[str], dict[str, str | None]]:
    """The files of a diffusers folder that Stable Diffusion needs, and the variant of each part's weights.

    Args:
        files: Paths relative to the folder, with "/".
        half: Prefer the fp16 variant, which is half the download.
        weights: False: only the configurations and the tokenizer, for weights that come from elsewhere.

    Raises:
        Unusable: Some are missing; the message names them.
    """
    files = set(files)
    chosen = list(CONFIGS)
    missing = [name for name in CONFIGS if name not in files]
    variants: dict[str, str | None] = {}
    for part, names in WEIGHTS.items() if weights else ():
        single = [(None, f"{part}/{name}") for name in names]
        fp16 = [("fp16", f"{part}/{names[0].replace('.safetensors', '.fp16.safetensors')}")]
        order = fp16 + single if half else single + fp16
        variant, name = next((choice for choice in order if choice[1] in files), single[0])
        variants[part] = variant
        (chosen if name in files else missing).append(name)
    slow = ["tokenizer/vocab.json", "tokenizer/merges.txt"]
    if "tokenizer/tokenizer.json" not in files and not files.issuperset(slow):
        missing.append("tokenizer/tokenizer.json")
    chosen += sorted(name for name in files if name.startswith("tokenizer/"))
    if missing:
        raise Unusable(f"lacks {', '.join(missing)}")
    return chosen, variants


def check_family(index: dict[str, Any]) -> str:
    """The class of the autoencoder, by model_index.json.

    Raises:
        Unusable: it is another family.
    """
    name = str(index.get("_class_name"))
    unet, vae, text_encoder = (index.get(part, [None, None])[1] for part in WEIGHTS)
    ours = unet == "UNet2DConditionModel" and vae in AUTOENCODERS and text_encoder == "CLIPTextModel"
    if ours and "XL" not in name:  # whose first text encoder is CLIP's, too
        return vae
    raise Unusable(f"is a {name}: only Stable Diffusion 1 and 2 are supported yet")


def in_folder(folder: Path, half: bool = False, weights: bool = True) -> dict[str, str | None]:
    """The variants of the weights in a folder that is complete, of the right family and nowhere cut short.

    Raises:
        Unusable: it is not.
    """
    if not folder.is_dir():
        raise Unusable("is neither a folder nor a file")
    # is_file follows links: a cache whose blobs were deleted is not complete.
    files = [path.relative_to(folder).as_posix() for path in folder.glob("*/*") if path.is_file()]
    files += [path.name for path in folder.glob("*") if path.is_file()]
    if "model_index.json" in files:  # another family lacks other files, which would say little
        try:
            index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
        except ValueError:
            raise Unusable("has a model_index.json that is no JSON: it is cut short") from None
        check_family(index)
    chosen, variants = choose_files(files, half, weights)
    for name in chosen:
        if name.endswith(".safetensors"):
            header(folder / name)
    return variants


def header(path: Path) -> dict[str, Any]:
    """The table of contents of a safetensors file: {name: {"dtype", "shape", "data_offsets"}}

    Raises:
        Unusable: it is no safetensors file, or shorter than its contents say.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size + 1
        text = file.read(length) if length <= min(size, LONGEST_HEADER) else b""
    try:
        contents = json.loads(text)
        end = 8 + length + max((entry["data_offsets"][1] for k, entry in contents.items() if k != "__metadata__"))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Unusable(f"holds no weights that can be read in {path.name} ({size} bytes): delete {path}") from None
    if size < end:
        raise Unusable(f"{path.name} is cut short ({size / 1e6:.1f} of {end / 1e6:.1f} MB): delete {path}")
    return {name: entry for name, entry in contents.items() if name != "__metadata__"}
