"""Downloads from the hub, and its failures in a user's words. Imports neither torch nor diffusers.

One request asks for the list of files before anything is downloaded: diffusers itself would retry for 23 seconds per
component. HF_ENDPOINT, HF_TOKEN, HF_HOME and HF_HUB_OFFLINE are heeded by the hub's own client.
"""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path

from guidance.layout import STABLE_DIFFUSION, Family, Unusable, check_family, choose_files

TIMEOUT = 10.0  # seconds the hub has for its first answer
STATUS = {  # of answers that have no error of their own
    401: "needs a token or refuses the one it got: log in with `hf auth login`, or mend HF_TOKEN",
    403: "forbidden: the token may not read it",
    429: "too many requests: wait, or log in with `hf auth login`",
}


class BrokeOff(OSError):
    """A download that had begun did not end."""


def download(repo: str, half: bool, weights: bool = True, family: Family = STABLE_DIFFUSION) -> Path:
    """Asks the hub what a repository holds, checks that, its family and the disk, and downloads what is needed.

    Of a download that broke off, whole files are used again; of the others the hub's client keeps nothing.
    Args: of `layout.choose_files`. Returns the folder.

    Raises:
        Unusable, OSError, or an error of the hub's client: `explain` says it in words.
    """
    from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download, try_to_load_from_cache

    siblings = HfApi().model_info(repo, files_metadata=True, timeout=TIMEOUT).siblings or []
    sizes = {file.rfilename: file.size or 0 for file in siblings}
    if "model_index.json" in sizes:  # kilobytes, before gigabytes of another family
        index = Path(hf_hub_download(repo, "model_index.json", etag_timeout=TIMEOUT))
        check_family(json.loads(index.read_text(encoding="utf-8")), family)
    files, _ = choose_files(sizes, half, weights, family)
    needed = sum(sizes[name] for name in files if not isinstance(try_to_load_from_cache(repo, name), str))
    cache = Path(constants.HF_HUB_CACHE)
    existing = next(parent for parent in [cache, *cache.absolute().parents] if parent.is_dir())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise OSError(errno.ENOSPC, f"needs {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free in {existing}")
    try:
        return Path(snapshot_download(repo, allow_patterns=files, etag_timeout=TIMEOUT))
    except RuntimeError as error:  # all that hf_xet, which large files come by, says of its network
        raise BrokeOff(str(error)) from error


def explain(error: BaseException) -> str:
    """Why a download failed, in a few words, from the whole chain of causes."""
    from huggingface_hub import errors

    chain = _chain(error)

    def first(*kinds: type[BaseException]) -> BaseException | None:
        return next((link for link in chain if isinstance(link, kinds)), None)

    if unusable := first(Unusable):
        return str(unusable)
    if first(errors.GatedRepoError):
        return "gated, accept its licence on its page and run `hf auth login`"
    if first(errors.RepositoryNotFoundError):
        return "not found (deleted, private, misspelt, or it needs `hf auth login`)"
    if first(errors.EntryNotFoundError) and not first(errors.LocalEntryNotFoundError):
        return "a file that it lists is missing"
    if first(errors.HFValidationError):
        return "neither a folder nor a valid repo id"
    if first(errors.OfflineModeIsEnabled):
        return "hub unreachable, HF_HUB_OFFLINE is set and it is not in the cache"
    if full := next((link for link in chain if getattr(link, "errno", None) == errno.ENOSPC), None):
        return f"not enough disk, {full.strerror}"
    if answer := first(errors.HfHubHTTPError):
        status = answer.response.status_code
        return STATUS.get(status, f"the hub answers {status}, which is its own fault: try again later")
    begun = first(BrokeOff) or any("Consistency check failed" in str(link) for link in chain)
    if begun or "RemoteProtocolError" in map(_kind, chain):
        return "the download broke off: the same command keeps its whole files and begins the broken one again"
    if first(ConnectionError, TimeoutError) or any("Connect" in n or "Timeout" in n for n in map(_kind, chain)):
        return "hub unreachable"
    return " ".join(str(error).split())[:200] or _kind(error)


def is_of_the_hub(error: BaseException) -> bool:
    """Whether it is an expected failure: the hub's client changes its HTTP library, whose errors share no base."""
    return isinstance(error, OSError | ValueError) or type(error).__module__.startswith(
        ("huggingface_hub", "httpx", "httpcore", "requests")
    )


def _chain(error: BaseException) -> list[BaseException]:
    links = []
    while error is not None and error not in links:
        links.append(error)
        error = error.__cause__ or error.__context__
    return links


def _kind(error: BaseException) -> str:
    return type(error).__name__
