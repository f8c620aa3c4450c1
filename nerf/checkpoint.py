"""Checkpoints: atomic, exact, and refused where they do not fit.

A file is what torch.save writes, plus one record `meta.json`, so that the prompt, the architecture and the step are
read without torch, and torch.load still opens it. The same state gives the same bytes: it is rebuilt from plain
containers first, because pickle notices which objects are shared.
"""

from __future__ import annotations

import io
import json
import os
import re
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

META = "archive/meta.json"  # torch names its folder "archive" when it saves to a buffer
NAMES = ("latest", "scratch", "best", "latest_model")
_NAME = re.compile(r"step_(\d+)\.pt")
_SCRATCH = "or --ckpt scratch to start anew (the old run is kept aside)"


def save(folder: str | Path, state: dict[str, Any], meta: dict[str, Any], keep: int = 2) -> Path:
    """Write folder/step_<meta["step"]>.pt and delete all but the last `keep`.

    The file appears complete or not at all. Files of later steps belong to a run that was wound back: they get the
    suffix .old and are no longer the latest.

    Args:
        state: Nested dict, list and tuple of tensors, numbers, strings, None: all that a run needs to go on.
        meta: JSON-able; "step", "text" and "architecture" are compared by `check`.

    Raises:
        ValueError: `state` holds something else, which a safe load would refuse.
    """
    return _save(_path(folder, meta), _plain(state), meta, keep)


class Writer:
    """Saves checkpoints beside the run that goes on, one at a time. A context that ends when the last one is there."""

    def __init__(self):
        self._pool, self._last = ThreadPoolExecutor(1, "checkpoint"), None

    def save(self, folder: str | Path, state: dict[str, Any], meta: dict[str, Any]) -> Path:
        """As `save`, of the state as it is now, once the one before is there. The file is there after `wait`."""
        self.wait()
        path = _path(folder, meta)
        self._last = self._pool.submit(_save, path, _plain(state), meta)
        return path

    def wait(self) -> None:
        """Return when all files are there. Raises what stopped one."""
        if self._last is not None:
            self._last.result()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type | None, *error: object) -> None:
        if kind is None:
            self.wait()
        elif self._last is not None:
            wait([self._last])  # the run has an error of its own


def find(workspace: str | Path, ckpt: str = "latest") -> Path | None:
    """The checkpoint that `--ckpt` means: a file, or the latest in workspace/checkpoints; None: there is none.

    Raises:
        ValueError: `ckpt` is neither a known name nor a file, or `workspace` is a file.
    """
    if os.path.isfile(workspace):
        raise ValueError(f"--workspace needs a folder, got {str(workspace)!r}: it is a file")
    if ckpt == "scratch":
        return None
    if ckpt in NAMES:
        return next(reversed(_steps(Path(workspace) / "checkpoints")), None)
    if not os.path.isfile(ckpt):
        raise ValueError(f"--ckpt needs {', '.join(NAMES)} or a file that exists, got {ckpt!r}")
    return Path(ckpt)


def read_meta(path: str | Path) -> dict[str, Any]:
    """The meta data of a checkpoint, without torch. Raises ValueError where the file is damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            return json.loads(archive.read(META))
    except (zipfile.BadZipFile, KeyError, ValueError, EOFError, OSError) as error:
        raise _damaged(path, error) from None


def check(path: str | Path, expected: dict[str, Any], **options: Any) -> dict[str, Any]:
    """The meta data of a checkpoint that agrees with `expected` (`Config.fingerprint()`), without torch.

    Args:
        options: More that it must have been made with, where it matters.

    Raises:
        ValueError: damaged, of another prompt, or of another architecture or option.
    """
    meta = read_meta(path)
    if meta.get("text") != expected["text"]:
        raise ValueError(
            f"{path} was made for --text {meta.get('text')!r}, not {expected['text']!r}: "
            f"use another --workspace, {_SCRATCH}"
        )
    stored = meta.get("config", {}) | meta.get("architecture", {})
    for name, value in (expected["architecture"] | options).items():
        if stored.get(name) != value:
            raise ValueError(
                f"{path} was made with --{name} {stored.get(name)}, not {value}: "
                f"type --{name} {stored.get(name)}, use another --workspace, {_SCRATCH}"
            )
    return meta


def load(path: str | Path, expected: dict[str, Any] | None = None) -> dict[str, Any]:
    """The state in a checkpoint, as `save` got it, in ordinary memory: a GPU's is for what a step needs.

    Raises:
        ValueError: damaged (every record's checksum is compared), or it disagrees with `expected`, see `check`.
    """
    import torch

    if expected is not None:
        check(path, expected)
    try:
        with zipfile.ZipFile(path) as archive:
            if broken := archive.testzip():
                raise zipfile.BadZipFile(f"bad checksum of {broken}")
        return torch.load(path, map_location="cpu", weights_only=True)
    except (zipfile.BadZipFile, EOFError, OSError, RuntimeError) as error:
        raise _damaged(path, error) from None


def _steps(folder: Path) -> list[Path]:
    """The checkpoints in a folder, by step."""
    return sorted((path for path in folder.glob("step_*.pt") if _NAME.fullmatch(path.name)), key=_step)


def _step(path: Path) -> int:
    return int(_NAME.fullmatch(path.name)[1])


def _path(folder: str | Path, meta: dict[str, Any]) -> Path:
    return Path(folder) / f"step_{meta['step']:06d}.pt"


def _save(path: Path, state: dict[str, Any], meta: dict[str, Any], keep: int = 2) -> Path:
    """Write what `_plain` made."""
    import torch

    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr(zipfile.ZipInfo(META), json.dumps(meta, sort_keys=True))  # ZipInfo: a fixed date
    _write(path, buffer.getbuffer())
    for later in [other for other in _steps(path.parent) if _step(other) > meta["step"]]:
        os.replace(later, later.with_suffix(".pt.old"))
    for outdated in _steps(path.parent)[:-keep]:
        outdated.unlink()
    return path


def _write(path: Path, data: memoryview) -> None:
    partial = path.with_name(f".saving-{path.stem}.{os.getpid()}")
    try:
        with open(partial, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _plain(value: Any) -> Any:
    """The same value in fresh dicts, lists, tuples and packed tensors on the CPU: none shares memory with it."""
    import torch

    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        items = [_plain(item) for item in value]
        return items if isinstance(value, list) else tuple(items)
    if isinstance(value, str):
        return sys.intern(str(value))
    if value is None or type(value) in (bool, int, float):
        return value
    raise ValueError(f"a checkpoint holds tensors and plain values, got {type(value).__name__}")


def _damaged(path: str | Path, error: Exception) -> ValueError:
    path = Path(path)
    others = [other for other in _steps(path.parent) if other != path] if path.parent.is_dir() else []
    before = f"--ckpt {others[-1]} to continue from the one before, " if others else ""
    return ValueError(f"{path} is damaged or no checkpoint ({error}): use {before}another --workspace, {_SCRATCH}")
