"""Tadpole: turn a sentence into a 3D object.

python main.py --text "a frog" --workspace out
python main.py --help
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence

from common.openmp import wait_briefly

wait_briefly()

from nerf import checkpoint, cli  # noqa: E402
from nerf.preflight import check_prior, preflight  # noqa: E402
from nerf.watch import Stopped, lacks_memory  # noqa: E402
from nerf.workspace import claimed  # noqa: E402

USER_ERROR, FAILURE, INTERRUPTED = 2, 1, 130  # exit statuses


def main(argv: Sequence[str]) -> int:
    """Run one command and return the exit status; an error of the user is one line on stderr."""
    request = None
    try:
        request = cli.parse(argv)
        return run(request)
    except KeyboardInterrupt:
        return complain(f"interrupted{how_to_go_on(request)}", INTERRUPTED)
    except Exception as error:
        if "--debug" in argv or request and request.config.run.debug:  # the latter from a --file, too
            raise
        status = explain(error)
        if status is None:
            raise
        return status


def run(request: cli.Request) -> int:
    """Carry out what the command line asks for, cheap checks first."""
    config = request.config
    if request.commands == ("doctor",):
        from nerf import doctor

        return doctor.run(config)
    if request.commands == ("words",):
        from toybox import lexicon

        check_prior(config.guidance.toybox_dir)
        return tell(lexicon.overview(lexicon.known_to(config.guidance.toybox_dir)))
    if request.commands == ("download",):
        from nerf.select_guidance import find_weights

        for name in config.guidance.guidance:
            if name == "toybox":
                print("ready: toybox needs no download")
                continue
            half = config.run.device != "cpu"  # on the machine it is fetched for, which need not be this one
            found = find_weights(config, name, half)
            print(f"ready: {found.source} in {found.single or found.folder or 'memory, drawn at random'}")
        return 0
    if "train" in request.commands and "toybox" in config.guidance.guidance:
        from toybox import captions, lexicon

        known = lexicon.known_to(config.guidance.toybox_dir)
        captions.parse(config.run.text, known)
        captions.negative(config.run.negative, known)
    preflight(request.commands, config)
    for note in request.notes:
        print(note, file=sys.stderr, flush=True)
    with claimed(config.run.workspace) if "train" in request.commands else contextlib.nullcontext():
        work(request)
    return 0


def work(request: cli.Request) -> None:
    """What takes long. Imports torch."""
    from nerf import commands

    functions = {
        "train": commands.run_training,
        "test": commands.run_test,
        "six_views": commands.run_six_views,
        "save_mesh": commands.run_save_mesh,
    }
    for command in request.commands:
        functions[command](request.config)


def tell(text: str) -> int:
    """Print it, to a reader who may stop early ("words | head -3"), and return the exit status."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python flushes at its end
    return 0


def how_to_go_on(request: cli.Request | None) -> str:
    """What an interrupted training run left to go on from; "" without a checkpoint."""
    if request is None or "train" not in request.commands:
        return ""
    path = checkpoint.find(request.config.run.workspace)
    typed = "" if request.config.run.ckpt in ("latest", "best") else " with --ckpt latest"
    return f"; the same command{typed} goes on from {path}" if path else ""


def explain(error: Exception) -> int | None:
    """Print what the user can do about an error and return the exit status; None: it is a fault of this program."""
    if isinstance(error, ValueError):
        return complain(error, USER_ERROR)
    if isinstance(error, ModuleNotFoundError):
        return complain(f"{error}: pip install -r requirements.txt", FAILURE)
    if isinstance(error, OSError):
        return complain(error, FAILURE)
    if isinstance(error, Stopped):
        return complain(error, FAILURE)
    if type(error).__name__ == "OutOfMemoryError":  # torch's, without importing it
        return complain("out of GPU memory: use --vram_O, smaller --w and --h, or --batch_size 1", FAILURE)
    if lacks_memory(error):
        smaller = "smaller --w, --h, --video_size, --mcubes_resolution, or --batch_size 1"
        return complain(f"out of memory: use {smaller}", FAILURE)
    return None


def complain(message: object, status: int) -> int:
    print("main.py:", " ".join(str(message).splitlines()), file=sys.stderr, flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
