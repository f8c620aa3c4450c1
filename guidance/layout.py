"""Which files of a diffusers folder make a pipeline, and whether they are whole. Imports nothing heavy."""

from __future__ import annotations

import importlib.util
import json
import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SAFETENSORS, PICKLED = "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"
TEXT = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class Family:
    """What a pipeline of a kind consists of."""

    name: str
    kinds: str  # the name, for what else is refused
    weights: dict[str, tuple[str, ...]]  # part -> files of its weights, the best first; large ones may be in pieces
    classes: dict[str, tuple[str, ...]]  # part -> classes of model_index.json that will do
    tokenizer: tuple[tuple[str, ...], ...]  # sets of files, of which one is needed

    @property
    def configs(self) -> list[str]:
        return [
            "model_index.json",
            "scheduler/scheduler_config.json",
            *(f"{part}/config.json" for part in self.weights),
        ]


STABLE_DIFFUSION = Family(
    "Stable Diffusion",
    "Stable Diffusion 1 and 2",
    {"unet": (SAFETENSORS, PICKLED), "vae": (SAFETENSORS, PICKLED), "text_encoder": TEXT},
    {
        "unet": ("UNet2DConditionModel",),
        "vae": ("AutoencoderKL", "AutoencoderTiny"),
        "text_encoder": ("CLIPTextModel",),
    },
    (("tokenizer.json",), ("vocab.json", "merges.txt")),
)
DEEPFLOYD = Family(
    "DeepFloyd IF",
    "DeepFloyd IF",
    {"unet": (SAFETENSORS, PICKLED), "text_encoder": TEXT},
    {"unet": ("UNet2DConditionModel",), "text_encoder": ("T5EncoderModel",)},
    (("tokenizer.json",), ("spiece.model",)),
)
READERS = {"spiece.model": "sentencepiece"}  # file of a tokenizer -> the package that transformers reads it with
LONGEST_HEADER = 100_000_000  # bytes; safetensors refuses longer ones, too


class Unusable(ValueError):
    """A folder, file or repository is not a whole model of the family; the message goes after its name."""


def choose_files(
    files: Iterable[str], half: bool = False, weights: bool = True, family: Family = STABLE_DIFFUSION
) -> tuple[list[str], dict[str, str | None]]:
    """The files of a diffusers folder that the family needs, and the variant of each part's weights.

    Args:
        files: Paths relative to the folder, with "/".
        half: Prefer the fp16 variant, which is half the download.
        weights: False: only the configurations and the tokenizer, for weights that come from elsewhere.

    Raises:
        Unusable: Some are missing, or a package that reads them is; the message names them.
    """
    files = set(files)
    chosen = list(family.configs)
    missing = [name for name in family.configs if name not in files]
    variants: dict[str, str | None] = {}
    for part, names in family.weights.items() if weights else ():
        single = [(None, f"{part}/{name}") for name in names]
        fp16 = [("fp16", f"{part}/{names[0].replace('.safetensors', '.fp16.safetensors')}")]
        order = fp16 + single if half else single + fp16
        variant, name = next((choice for choice in order if _pieces(choice[1], files)), single[0])
        variants[part] = variant
        found = _pieces(name, files)
        chosen += found
        missing += [] if found else [name]
    words = (names for names in family.tokenizer if files.issuperset(f"tokenizer/{name}" for name in names))
    tokenizer = next(words, ())
    missing += [] if tokenizer else [f"tokenizer/{family.tokenizer[0][0]}"]
    chosen += sorted(name for name in files if name.startswith("tokenizer/"))
    if missing:
        raise Unusable(f"lacks {', '.join(missing)}")
    for name in tokenizer:
        if name in READERS and importlib.util.find_spec(READERS[name]) is None:
            lost = f"a tokenizer that {READERS[name]} reads, which is not installed"
            raise Unusable(f"has {lost}: pip install -r requirements.txt")
    return chosen, variants


def _pieces(name: str, files: set[str]) -> list[str]:
    """The file of this name, or the index and the numbered pieces it is published in; [] where neither is complete."""
    if name in files:
        return [name]
    stem, dot, ending = name.rpartition(".")
    fp16 = ".fp16" if stem.endswith(".fp16") else ""
    index = f"{stem.removesuffix(fp16)}{dot}{ending}.index{fp16}.json"
    pieces = sorted(file for file in files if re.fullmatch(rf"{re.escape(stem)}-\d+-of-\d+\.{ending}", file))
    whole = bool(pieces) and len(pieces) == int(pieces[0].rpartition("-of-")[2].partition(".")[0])
    return [index, *pieces] if whole and index in files else []


def check_family(index: dict[str, Any], family: Family = STABLE_DIFFUSION) -> dict[str, str]:
    """The classes of the parts, by model_index.json.

    Raises:
        Unusable: it is another family.
    """
    name = str(index.get("_class_name"))
    found = {part: index.get(part, [None, None])[1] for part in family.classes}
    if all(found[part] in classes for part, classes in family.classes.items()) and "XL" not in name:
        return found  # XL: its first text encoder is CLIP's, too
    raise Unusable(f"is a {name}: not supported yet, only {family.kinds}")


def in_folder(
    folder: Path, half: bool = False, weights: bool = True, family: Family = STABLE_DIFFUSION
) -> dict[str, str | None]:
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
        check_family(index, family)
    chosen, variants = choose_files(files, half, weights, family)
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
    # In the hub's cache it is a link; without its target, which would only be linked again, it is downloaded again.
    anew = f"delete {path.resolve()}, get it anew"
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size + 1
        text = file.read(length) if length <= min(size, LONGEST_HEADER) else b""
    try:
        contents = json.loads(text)
        end = 8 + length + max((entry["data_offsets"][1] for k, entry in contents.items() if k != "__metadata__"))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Unusable(f"holds no weights that can be read in {path.name} ({size} bytes): {anew}") from None
    if size < end:
        raise Unusable(f"{path.name} is cut short ({size / 1e6:.1f} of {end / 1e6:.1f} MB): {anew}")
    return {name: entry for name, entry in contents.items() if name != "__metadata__"}
