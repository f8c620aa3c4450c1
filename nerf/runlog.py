"""What a run writes about itself: log.jsonl and TensorBoard for every look at the losses, run.json at its end."""

from __future__ import annotations

import json
import math
import platform
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from nerf.export.files import write_bytes, write_json

PACKAGES = ("numpy", "diffusers", "transformers", "huggingface_hub")


class RunLog:
    """Metrics by step, in workspace/log.jsonl and, with tensorboardX, workspace/run. A context manager.

    Args:
        step: Steps done. What a run that was wound back or begun anew had logged after it goes to log.jsonl.old.
    """

    def __init__(self, workspace: Path, step: int):
        path = workspace / "log.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        later = [line for line in lines if _step(line) > step]
        if later:
            with open(workspace / "log.jsonl.old", "a") as old:
                old.writelines(line.rstrip() + "\n" for line in later)
        write_bytes(path, "".join(line for line in lines if _step(line) <= step).encode())
        self._file = open(path, "a", buffering=1)  # line by line: readable while it trains
        try:
            from tensorboardX import SummaryWriter

            self._board = SummaryWriter(str(workspace / "run"), purge_step=step, flush_secs=10)
        except ModuleNotFoundError as error:
            print(f"no TensorBoard log ({error}): pip install -r requirements.txt", file=sys.stderr, flush=True)
            self._board = None

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()


class Phases:
    """Seconds of each phase of a run (load, compile, train, render, mesh)."""

    def __init__(self):
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - start, 2)


def write_run(workspace: Path, phases: Phases, **facts: Any) -> dict[str, Any]:
    """Write run.json: command, versions, times, peak memory, and what the caller adds. Returns it."""
    import torch

    report = {
        "command": sys.argv,
        "python": platform.python_version(),
        "versions": {"torch": torch.__version__} | {name: metadata.version(name) for name in PACKAGES},
        "threads": torch.get_num_threads(),
        "seconds": phases.seconds,
        "peak_memory_gb": round(_peak_memory() / 1e9, 2),
        **facts,
    }
    if torch.cuda.is_available():  # the field and its guidance may each have a GPU
        peaks = map(torch.cuda.max_memory_allocated, range(torch.cuda.device_count()))
        report["peak_gpu_memory_gb"] = {f"cuda:{n}": round(peak / 1e9, 2) for n, peak in enumerate(peaks) if peak}
    write_json(workspace / "run.json", report)
    return report


def _peak_memory() -> int:
    """Most bytes that this process has had in memory."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage begins with what the process had that started this one
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _step(line: str) -> float:
    """Of a line of a log; inf where a run that was killed has left half a line."""
    try:
        return json.loads(line)["step"]
    except json.JSONDecodeError:
        return math.inf
