"""Compiled operators are compared with their references before a GPU's first run depends on them.

A kernel that is wrong on some GPU, or ends the process there, costs this run speed and not its result: the references
serve instead. What has agreed is noted beside the library, and not compared again.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

import extension
from nerf.comparisons import STOPPED, Verdict
from nerf.config import ROOT

# From wherever the run was started: a cache may be a folder beside that. Nothing there is imported.
CODE = f"import sys; sys.path[0] = {str(ROOT)!r}; from nerf.comparisons import main; sys.exit(main(*sys.argv[1:]))"
COMMAND = (sys.executable, "-c", CODE)
PATIENCE = 180  # seconds for all comparisons; they take about ten


def load_operators(device: torch.device) -> bool:
    """`extension.load_all`, then the comparisons where `device` is a GPU.

    Returns whether the compiled operators of all extensions are in use.
    """
    extension.load_all()
    if device.type == "cuda":
        compare_once(device, [name for name in extension.NAMES if extension.load(name)])
    return all([extension.load(name) for name in extension.NAMES])


def compare_once(device: torch.device, names: Sequence[str]) -> None:
    """Leave an extension to its references where its operators do not agree with them on this GPU."""
    gpu = f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    notes = {name: Path(f"{extension.status(name).library}.agrees") for name in names}
    new = [name for name, note in notes.items() if not (note.exists() and gpu in note.read_text().splitlines())]
    if not new:
        return
    print(f"comparing the operators with their references on {gpu} (first use) ...", file=sys.stderr, flush=True)
    for verdict in compare_apart(str(device), new):
        if verdict.problem:
            extension.reject(verdict.name, f"{verdict.problem} on {gpu}")
            continue
        with contextlib.suppress(OSError), open(notes[verdict.name], "a") as note:  # or it is compared next time, too
            note.write(f"{gpu}\n")


def compare_apart(device: str, names: Sequence[str]) -> Iterator[Verdict]:
    """Compare extensions in a process apart, which a fault may end.

    Says nothing of those that cannot be compared: the GPU takes one process alone, or has no memory left.
    """
    while names:
        status, said = ask(device, names)
        found = [json.loads(line) for line in said.splitlines()]
        yield from (Verdict(*one) for one in found)
        names = names[len(found) :]
        if status is None or status < 0:  # in the middle of the first that is missing
            what = "its kernels do not end" if status is None else f"its kernels end the process (signal {-status})"
            yield Verdict(names[0], what)
            names = names[1:]
        elif status != STOPPED:
            return


def ask(device: str, names: Sequence[str]) -> tuple[int | None, str]:
    """The exit status of COMMAND, None where it had to be stopped, and what it printed."""
    command = [*COMMAND, device, *names]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=PATIENCE)
        return done.returncode, done.stdout.decode()
    except subprocess.TimeoutExpired as hung:
        return None, (hung.stdout or b"").decode()
