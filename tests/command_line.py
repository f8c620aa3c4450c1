"""The command line as its tests type it, and a workspace for it to meet."""

from __future__ import annotations

from nerf import checkpoint, cli

FROG = ["--text", "a frog"]


def parse(*argv):
    return cli.parse([*FROG, *argv]).config


def save_run(folder):
    """A workspace with a checkpoint of "a frog" made with 4 levels."""
    config = cli.parse([*FROG, "--num_levels", "4", "--iters", "7"]).config
    meta = {"step": 7, **config.fingerprint(), "config": config.flat()}
    checkpoint.save(folder / "checkpoints", {"a": 1}, meta)
    return folder
