"""What is checked before anything heavy loads: the folders, the disk, the checkpoint, the weights. Imports no torch."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from nerf import checkpoint
from nerf.config import Config

DISK_NEEDED = 500e6  # bytes: two checkpoints of the default model, pictures, videos and a mesh


def preflight(commands: Sequence[str], config: Config) -> None:
    """Raise ValueError, one line, for what would stop the run later. Creates the workspace when all is well.

    Args:
        commands: Of `cli.Request`.
    """
    check_disk(config.run.workspace)
    path = checkpoint.find(config.run.workspace, config.run.ckpt)
    if path is not None:
        checkpoint.check(path, config.fingerprint())
    if "train" in commands and "toybox" in config.guidance.guidance:
        check_prior(config.guidance.toybox_dir)
    check_writable(config.run.workspace)
    if "train" in commands and "SD" in config.guidance.guidance:
        from guidance import weights

        sources = weights.resolve(config.guidance.sd_version, config.guidance.hf_key)
        weights.locate(sources, config.training.fp16)


def check_disk(workspace: str) -> None:
    """Enough room where the workspace is or will be."""
    path = Path(workspace).absolute()
    existing = next(folder for folder in (path, *path.parents) if os.path.exists(folder))
    if not existing.is_dir():
        raise ValueError(f"--workspace needs a folder, got {workspace!r}: {existing} is a file")
    free = shutil.disk_usage(existing).free
    if free < DISK_NEEDED:
        raise ValueError(
            f"--workspace {workspace} needs {DISK_NEEDED / 1e6:.0f} MB of free disk, {free / 1e6:.0f} MB are free: "
            "make room or take a folder on another disk"
        )


def check_writable(workspace: str) -> None:
    """Create the workspace and a file in it, for a moment."""
    try:
        Path(workspace).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=workspace):
            pass
    except OSError as error:
        reason = error.strerror or error
        raise ValueError(f"--workspace {workspace} cannot be written ({reason}): take another folder") from None


def check_prior(folder: str) -> None:
    """A diffusers model lies in the folder."""
    if not (Path(folder) / "model_index.json").is_file():
        raise ValueError(
            f"--toybox_dir {folder} holds no diffusers model (model_index.json is missing): "
            "restore toybox/prior from the repository, or use --guidance SD"
        )
