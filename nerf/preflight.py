"""What is checked before anything heavy loads: the folders, the disk, the checkpoint, the weights. Imports no torch."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from nerf import checkpoint, select_guidance
from nerf.config import Config
from nerf.workspace import check_own

RENDERED = 4  # channels of a rendering that is itself read as latents: normals and opacity
DISK_NEEDED = 1.2e9  # bytes: three checkpoints of the default model, with Adam 293 MB each, pictures, videos and a mesh


def preflight(commands: Sequence[str], config: Config) -> None:
    """Raise ValueError, one line, for what would stop the run later. Creates the workspace when all is well.

    Args:
        commands: Of `cli.Request`.
    """
    check_disk(config.run.workspace)
    path = checkpoint.find(config.run.workspace, config.run.ckpt)
    if path is not None:
        goes_on = "train" in commands and config.run.ckpt != "latest_model"  # which takes the weights alone
        checkpoint.check(path, config.fingerprint(), **({"optim": config.training.optim} if goes_on else {}))
    if "train" in commands or "test" in commands:
        check_video()
    if "train" in commands and "toybox" in config.guidance.guidance:
        check_prior(config.guidance.toybox_dir, config.training.latent_iter_ratio)
    if "train" in commands:
        check_own(config.run.workspace)
    check_writable(config.run.workspace)
    for name in {"SD", "IF"}.intersection(config.guidance.guidance if "train" in commands else ()):
        half = select_guidance.has_accelerator(config.guided_on)  # there it runs in fp16
        select_guidance.find_weights(config, name, half)
    Path(config.run.workspace).mkdir(parents=True, exist_ok=True)


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


def check_video() -> None:
    """The writer of the turntable is installed: it is first used when the training is over."""
    if importlib.util.find_spec("imageio_ffmpeg") is None:
        raise ValueError("the turntable needs imageio_ffmpeg, which is not installed: pip install -r requirements.txt")


def check_writable(workspace: str) -> None:
    """Create the workspace and a file in it, for a moment."""
    folder, made = Path(workspace).absolute(), []
    try:
        for missing in [path for path in (*reversed(folder.parents), folder) if not path.exists()]:
            missing.mkdir()
            made.append(missing)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or error
        raise ValueError(f"--workspace {workspace} cannot be written ({reason}): take another folder") from None
    finally:
        for path in reversed(made):
            path.rmdir()


def check_prior(folder: str, latent_iter_ratio: float = 0.0) -> None:
    """A diffusers model lies in the folder, and it can judge latents if the run has some."""
    if not (Path(folder) / "model_index.json").is_file():
        raise ValueError(
            f"--toybox_dir {folder} holds no diffusers model (model_index.json is missing): "
            "restore toybox/prior from the repository, or use --guidance SD"
        )
    unet = Path(folder) / "unet" / "config.json"
    channels = json.loads(unet.read_text())["in_channels"] if latent_iter_ratio and unet.is_file() else RENDERED
    if channels != RENDERED:
        raise ValueError(
            f"--latent_iter_ratio {latent_iter_ratio} renders latents of {RENDERED} channels, and the model in "
            f"{folder} has {channels}: use --latent_iter_ratio 0 with it"
        )
