"""The folder of a run: whose it is, who writes to it, and how an old run makes room. Imports no torch."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nerf import checkpoint

FILES = (  # and folders, that a run writes
    "config.json",
    "run.json",
    "log.jsonl",
    "log.jsonl.old",
    "run",
    "checkpoints",
    "validation",
    "results",
    "mesh",
    "guidance",
)


def is_run(workspace: str | Path) -> bool:
    """Whether a run has been here: it has left its options, or a checkpoint."""
    try:
        options = json.loads((Path(workspace) / "config.json").read_text(encoding="utf-8"))
        written = isinstance(options, dict) and {"text", "workspace", "iters"} <= set(options)
    except (OSError, ValueError):
        written = False
    return written or checkpoint.find(workspace) is not None


def check_own(workspace: str | Path) -> None:
    """Raise ValueError where files of something else have the names that a run would write to, or move aside."""
    taken = [name for name in FILES if (Path(workspace) / name).exists()]
    if taken and not is_run(workspace):
        raise ValueError(
            f"--workspace {workspace} holds {', '.join(taken)}, and not of a run of this program: take another folder"
        )


@contextmanager
def claimed(workspace: str | Path) -> Iterator[None]:
    """Nobody else trains here meanwhile. A lock of the process on the folder: it cannot outlive it.

    Raises:
        ValueError: Another run does.
    """
    folder = os.open(workspace, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"another run is training in --workspace {workspace}: wait for its end, or take another folder"
            ) from None
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(folder)


def set_aside(workspace: str | Path) -> Path | None:
    """Move the files of the run in a workspace to workspace/old-<n>; None: there was no run."""
    workspace = Path(workspace)
    if not is_run(workspace):
        return None
    number = next(n for n in range(1, sys.maxsize) if not (workspace / f"old-{n}").exists())
    target = workspace / f"old-{number}"
    target.mkdir()
    for path in (workspace / name for name in FILES):
        if path.exists():
            shutil.move(path, target / path.name)
    return target
