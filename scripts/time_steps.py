"""Whole steps of a training run: how many a second, in how much memory, and what they ask of the GPU.

    python scripts/time_steps.py --json steps.json -- --guidance SD --hf_key random:sd21 --device cuda -O
    python scripts/time_steps.py --cap 6 -- --guidance SD --hf_key random:sd21 --device cuda -O --vram 6

Behind -- stands what main.py would be given. The run is main.py's, looks at its losses included, but for checkpoints
and pictures. --cap emulates a smaller card: the memory that CUDA itself takes counts, too, as it does there.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from common.openmp import wait_briefly  # noqa: E402

wait_briefly()  # as in a run

import torch  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.profiler import ProfilerActivity, profile  # noqa: E402

import extension  # noqa: E402
from nerf import build, cli  # noqa: E402
from nerf.config import Config  # noqa: E402
from nerf.export.files import write_json  # noqa: E402
from nerf.trainer import LOG_INTERVAL, Trainer  # noqa: E402
from nerf.types import RenderOutput  # noqa: E402

WARM = 50  # steps before anything is measured: graphs are recorded, and the allocator has met its sizes


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300, help="the length of the run, whose phases share it")
    parser.add_argument("--cap", type=float, help="GB of the card that is emulated")
    parser.add_argument("--json", type=Path)
    parser.add_argument("rest", nargs="*", help="after --: options for main.py")
    options = parser.parse_args()
    try:
        words = ["--text", "a frog", "--iters", str(options.steps), *options.rest]
        config = cli.parse(words).config
        device = build.build_device(config.run.device)
        if options.cap:
            limit(device, options.cap)
    except ValueError as error:
        parser.error(str(error))
    if options.steps < WARM + 2 * LOG_INTERVAL:
        parser.error(f"--steps needs {WARM + 2 * LOG_INTERVAL} at least, got {options.steps}")
    with tempfile.TemporaryDirectory() as workspace:  # no run goes on here
        found = {"options": options.rest, "cap_gb": options.cap}
        found |= measure(config.updated({"workspace": workspace}), device)
    print(json.dumps(found, indent=2))
    if options.json:
        write_json(options.json, found)


def limit(device: torch.device, gigabytes: float) -> None:
    """Let torch allocate what a card of this size would have left beside CUDA itself.

    Raises:
        ValueError: It is no GPU, or more than that is taken already.
    """
    if device.type != "cuda":
        raise ValueError(f"--cap emulates a smaller GPU, and the device is {device}: leave it out")
    free, total = torch.cuda.mem_get_info(device)
    left = gigabytes * 1e9 - (total - free)
    if left <= 0:
        raise ValueError(f"--cap needs more than the {(total - free) / 1e9:.1f} GB that are taken, got {gigabytes}")
    torch.cuda.set_per_process_memory_fraction(left / total, device)


def measure(config: Config, device: torch.device) -> dict:
    """Train; by phase the steps a second (median, least and most over spans of LOG_INTERVAL) and samples a step."""
    extension.set_mode(config.run.ops)
    trainer = build.build_trainer(config, device)
    trainer.save_interval = config.training.iters
    borders, counts, taken, step = [], [], [], trainer.train_step

    def note() -> None:
        """Behind a look at the losses, which has waited for the device."""
        borders.append(time.perf_counter())
        taken.append(torch.cuda.memory_allocated(device) if device.type == "cuda" else 0)

    def watched() -> tuple[RenderOutput, dict[str, Tensor]]:
        if trainer.step % LOG_INTERVAL == 0:
            note()
        out, terms = step()
        if trainer.step % LOG_INTERVAL == 0:
            counts.append(out.samples["packed_info"][-1].sum())
        return out, terms

    trainer.train_step, trainer.save = watched, note  # the run ends with saving
    trainer.train()
    rates, samples = defaultdict(list), defaultdict(list)
    for i, count in enumerate(counts):
        first, seconds = i * LOG_INTERVAL, borders[i + 1] - borders[i]
        phases = {trainer.schedule.plan(step).phase for step in (first, first + LOG_INTERVAL - 1)}
        if first >= WARM and len(phases) == 1:
            phase = phases.pop()
            rates[phase].append(LOG_INTERVAL / seconds)
            samples[phase].append(int(count))
    log = (trainer.workspace / "log.jsonl").read_text().splitlines()
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "torch": torch.__version__,
        "guidance": {name: prior.describe() for name, prior in trainer.guidance.items()},
        "phases": {
            phase: {
                "steps_per_second": round(statistics.median(each), 2),
                "least": round(min(each), 2),
                "most": round(max(each), 2),
                "samples": round(statistics.median(samples[phase])),
            }
            for phase, each in rates.items()
        },
        "skipped": sum(json.loads(line)["skipped"] for line in log),  # views, of the steps that were looked at
        **(of_a_gpu(trainer, device, taken[WARM // LOG_INTERVAL :]) if device.type == "cuda" else {}),
    }


def of_a_gpu(trainer: Trainer, device: torch.device, taken: list[int]) -> dict:
    """Memory, GB, and what one more step calls of CUDA's runtime, by name."""
    free, total = torch.cuda.mem_get_info(device)
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        trainer.train_step()
    calls = {row.key: row.count for row in seen.key_averages() if row.key.startswith(("cuda", "cuLaunch"))}
    return {
        "taken_gb": {"first": taken[0] / 1e9, "last": taken[-1] / 1e9},
        "peak_gb": torch.cuda.max_memory_allocated(device) / 1e9,
        "reserved_gb": torch.cuda.max_memory_reserved(device) / 1e9,
        "card_gb": (total - free) / 1e9,  # whatever else is on it, CUDA included
        "calls": calls,
    }


if __name__ == "__main__":
    main()
