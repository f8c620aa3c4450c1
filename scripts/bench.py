"""Measures operators and parts of a run against their torch references, and writes the tables of docs/benchmarks.md.

    python scripts/bench.py ops                           every operator: a table (CPU, all threads)
    python scripts/bench.py field                         also march, and step, render, export: parts of a run
    python scripts/bench.py sd --device cuda              Stable Diffusion, random weights: parts, memory plans
    python scripts/bench.py sd --device fake              its memory alone, counted without a GPU
    python scripts/bench.py ops --op grid --json ops.json only operators whose name contains grid; keep the figures
    python scripts/bench.py --markdown ops.json step.json write docs/benchmarks.md from such files

Ours and the reference take turns in one process on the same random data; the ratio is the median over the rounds. The
fused field has a second row, against the composition it replaces: the compiled encoding and torch's linear layers;
along rays, rounds of the compiled density that find where each ends, and then the query. What the processor can do at
most (roofline/) is probed in the same process; a last column says which share of that an operator reaches.
"""

from __future__ import annotations

import argparse
import functools
import gc
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "scripts")]

from common.openmp import wait_briefly  # noqa: E402

wait_briefly()  # as in a run

import torch  # noqa: E402
from benchcases import GROUPS, Case  # noqa: E402
from benchpage import MEMORY_HEAD, TITLES, memory_line, percent, write_markdown  # noqa: E402
from benchsd import held, sd_cases  # noqa: E402

import cases  # noqa: E402
import extension  # noqa: E402
from common.allocator import keep_freed_memory  # noqa: E402
from nerf.export.files import write_json  # noqa: E402
from nerf.watch import lacks_memory  # noqa: E402
from roofline import Roofline, probe  # noqa: E402

GROUPS = {**GROUPS, "sd": sd_cases}
SHORTEST = 2e-3  # seconds one timing takes at least: shorter operators are repeated within it


@dataclass(frozen=True)
class Row:
    op: str
    size: str
    passes: str  # forward | forward+backward
    ours_ms: float
    reference_ms: float
    ratio: float
    spread: float  # of the ratio: half the range of its middle half, as a share of it
    rate: str = ""  # operations or rows a second
    share: float | None = None  # of the processor's limit for these
    ours_gb: float | None = None  # of GPU memory at most, all that is loaded included
    reference_gb: float | None = None


def measure(case: Case, rounds: int, device: torch.device, limits: Roofline | None) -> Iterator[Row]:
    """Time one case, both sides taking turns."""
    sides = {"ours": ("native", case.call), "theirs": ("native", case.peer) if case.peer else ("torch", case.call)}
    if case.inputs:
        with torch.no_grad():
            result = case.call()
        cotangents = [cases.cotangent(y) for y in (result if isinstance(result, tuple) else (result,))]

    def backward(call: Callable[[], object]) -> None:
        outputs = call()
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        torch.autograd.grad(outputs, case.inputs, cotangents)

    for passes in ("forward", "forward+backward") if case.inputs else ("forward",):
        times: dict[str, list[float]] = {side: [] for side in sides}
        peaks: dict[str, float | None] = dict.fromkeys(sides)
        runs = {
            side: (mode, torch.no_grad()(call) if passes == "forward" else functools.partial(backward, call))
            for side, (mode, call) in sides.items()
        }
        repeats: dict[str, int] = {}
        for side, (mode, run) in runs.items():  # warm up, and find how often it has to run to be measurable
            extension.set_mode(mode)
            seconds = min(timed(run, 1, device) for _ in range(2))
            repeats[side] = max(1, round(SHORTEST / max(seconds, 1e-7)))
        for _ in range(rounds):
            for side, (mode, run) in runs.items():
                extension.set_mode(mode)
                run()  # the caches and the memory that the other side has left are not what a training meets
                if device.type == "cuda":
                    torch.cuda.reset_peak_memory_stats(device)
                times[side].append(timed(run, repeats[side], device))
                if device.type == "cuda":
                    peaks[side] = torch.cuda.max_memory_allocated(device) / 1e9
        extension.set_mode("native")
        ours, theirs = (1e3 * statistics.median(times[side]) for side in sides)
        ratios = sorted(theirs / own for own, theirs in zip(times["ours"], times["theirs"], strict=True))
        ratio = statistics.median(ratios)
        spread = (ratios[(3 * len(ratios) - 1) // 4] - ratios[len(ratios) // 4]) / 2 / ratio
        work = 1 if passes == "forward" else 3 if case.flops else 2
        rate, share = reached(case, work / (ours / 1e3), limits)
        yield Row(case.op, case.size, passes, ours, theirs, ratio, spread, rate, share, *peaks.values())


def within_memory(rows: Iterator[Row], case: Case) -> Iterator[Row]:
    """The rows of a case, or a line that says that there is too little memory for it: the others are measured."""
    try:
        yield from rows
    except RuntimeError as error:
        if not lacks_memory(error):
            raise
        print(f"{case.op:28}{case.size:44}out of memory: {str(error).splitlines()[0]}", flush=True)
        torch.cuda.empty_cache()


def reached(case: Case, forwards: float, limits: Roofline | None) -> tuple[str, float | None]:
    """What a case does in a second, in words, and its share of the limit; `forwards`: passes worth of work a second."""
    if case.flops:
        rate, unit, limit = case.flops * forwards / 1e9, "GFLOP/s", limits and limits.gflops
        limit = limits.gflops_bf16 if limits and case.bf16 else limit
    elif case.rows:
        rate, unit, limit = case.rows * forwards / 1e9, "Grows/s", limits and limits.gigarows
    else:
        return "", None
    return f"{rate:.3g} {unit}", rate / limit if limit else None


def timed(run: Callable[[], object], repeats: int, device: torch.device) -> float:
    """Seconds a call."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    for _ in range(repeats):
        run()
    wait()
    return (time.perf_counter() - start) / repeats


def commit() -> str:
    """Of this checkout; empty where git does not know."""
    asked = ["git", "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(asked, cwd=ROOT, capture_output=True, text=True).stdout.strip()
    except FileNotFoundError:
        return ""


def environment(device: torch.device) -> dict:
    """What a figure depends on."""
    processor = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        processor = models[0].split(":")[1].strip() if models else processor
    return {
        "commit": commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor,
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],  # 1 minute average: above the thread count, others were running
    }


def bench(args: argparse.Namespace) -> None:
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("bench.py: --device cuda needs a CUDA device, none is available")
    if device.type == "cpu":
        keep_freed_memory()  # as in a run, too
    if args.threads:
        torch.set_num_threads(args.threads)
    extension.set_mode("native")
    missing = [name for name in extension.NAMES if not extension.load(name)]
    if missing:
        sys.exit(f"bench.py: nothing to compare, not built: {', '.join(missing)}")
    limits = probe() if device.type == "cpu" else None
    report = {"what": args.what, "environment": environment(device), "rounds": args.rounds, "rows": []}
    report["limits"] = asdict(limits) if limits else None
    print(" ".join(f"{key}={value}" for key, value in report["environment"].items()))
    if limits:
        print("limits: " + ", ".join(f"{key} {value:.3g}" for key, value in report["limits"].items() if value))
    print(f"{'operator':28}{'size':44}{'pass':18}{'ours ms':>10}{'torch ms':>10}{'ratio':>8}  rate")
    gc.disable()  # 50 ms for what the references leave behind, in whichever turn comes next
    for case in GROUPS[args.what](device):
        if args.op and args.op not in case.op:
            continue
        gc.collect()
        for row in within_memory(measure(case, args.rounds, device, limits), case):
            figures = f"{row.ours_ms:10.3f}{row.reference_ms:10.2f}{row.ratio:8.1f}"
            memory = f"  {row.ours_gb:.2f} and {row.reference_gb:.2f} GB" if row.ours_gb else ""
            rate = f"{row.rate}{percent(row.share)}{memory}"
            print(f"{row.op:28}{row.size:44}{row.passes:18}{figures}  {rate}", flush=True)
            report["rows"].append(asdict(row))
        if args.json:  # whatever stops the next case
            write_json(args.json, report)


def count(args: argparse.Namespace) -> None:
    """Memory of Stable Diffusion without a device: a table on the screen, and the JSON beside it."""
    report = {"what": "memory", "environment": environment(torch.device("cpu")), "rows": []}
    print("\n".join(MEMORY_HEAD))
    for row in map(asdict, held()):
        if args.op in row["op"]:
            print(memory_line(row), flush=True)
            report["rows"].append(row)
    if args.json:
        write_json(args.json, report)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--markdown", nargs="+", metavar="JSON", help="write docs/benchmarks.md from these files")
    what = parser.add_subparsers(dest="what")
    for name in GROUPS:
        one = what.add_parser(name, help=TITLES[name])
        one.add_argument("--device", default="cpu", help="cpu or cuda; fake counts the memory of sd without either")
        one.add_argument("--op", default="", help="only operators whose name contains this")
        one.add_argument("--json", default="", help="write the figures to this file too")
        one.add_argument("--rounds", type=int, default=7, help="how often the two take turns")
        one.add_argument("--threads", type=int, default=0, help="torch threads (0: torch's default)")
    args = parser.parse_args()
    if args.markdown:
        write_markdown(args.markdown)
    elif not args.what:
        parser.error(f"say {', '.join(GROUPS)} or --markdown FILE")
    elif args.device != "fake":
        bench(args)
    elif args.what == "sd":
        count(args)
    else:
        parser.error(f"--device fake counts the memory of sd alone, not of {args.what}")


if __name__ == "__main__":
    main()
