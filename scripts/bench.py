"""Measures the operators against their torch references, and writes the tables of docs/benchmarks.md.

    python scripts/bench.py ops                         print a table (CPU, all threads)
    python scripts/bench.py ops --op grid --json o.json only operators whose name contains grid; keep the figures
    python scripts/bench.py --markdown o.json           write docs/benchmarks.md from such files

Ours and the reference take turns in one process on the same random data; the ratio is the median over the rounds. The
fused field has a second row, against the composition it replaces: the compiled encoding and torch's linear layers;
along rays, rounds of the compiled density that find where each ends, and then the query.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import cases  # noqa: E402
import extension  # noqa: E402
import freqencoder  # noqa: E402
import gridencoder  # noqa: E402
import raymarching  # noqa: E402
import shencoder  # noqa: E402
from nerf.fields import Field, HashGridField  # noqa: E402
from nerf.fields.network import NetworkField  # noqa: E402

SHORTEST = 2e-3  # seconds one timing takes at least: shorter operators are repeated within it


@dataclass(frozen=True)
class Case:
    op: str
    size: str
    call: Callable[[], object]  # returns a tensor or a tuple of them
    inputs: tuple[Tensor, ...] = ()  # differentiated in the backward pass; none: forward only
    peer: Callable[[], object] | None = None  # compared with this, compiled too; None: with `call` in plain torch


@dataclass(frozen=True)
class Row:
    op: str
    size: str
    passes: str  # forward | forward+backward
    ours_ms: float
    reference_ms: float
    ratio: float


def operator_cases(device: torch.device) -> Iterator[Case]:
    """Every operator at the sizes of a training step (64 x 64 pixels, about 0.2 M samples)."""
    yield from grid_cases(device)
    if device.type == "cpu":  # no other device has the operator
        yield from field_cases()
    yield from ray_cases(device)
    directions = cases.directions(2**16, device=device).requires_grad_()
    points = cases.points(2**16, device=device).requires_grad_()
    for degree in (4, 8):
        call = lambda degree=degree: shencoder.sh_encode(directions, degree)  # noqa: E731
        yield Case("sh_encode", f"2^16 directions, degree {degree}", call, (directions,))
    for degree in (4, 10):
        call = lambda degree=degree: freqencoder.freq_encode(points, degree)  # noqa: E731
        yield Case("freq_encode", f"2^16 points, degree {degree}", call, (points,))


def grid_cases(device: torch.device) -> Iterator[Case]:
    """16 levels of 2 features, tables of 2^19 rows, 16 to 2048 nodes an axis, smoothstep: main.py's default."""
    layout = {"desired_resolution": 2048, "interpolation": "smoothstep"}
    grid = gridencoder.GridEncoder(**layout).to(device)
    grid.embeddings.data = cases.points(*grid.embeddings.shape, device=device)  # random, not the tiny initial values
    for exponent in (16, 18):
        for order, make in (("random", cases.points), ("along rays", cases.points_on_rays)):
            x = make(2**exponent, device=device) * 2 - 1
            yield Case("grid_encode", f"2^{exponent} points, {order}", lambda x=x: grid(x), (grid.embeddings,))
    x = (cases.points_on_rays(2**16, device=device) * 2 - 1).requires_grad_()
    call = lambda: grid(x)  # noqa: E731
    yield Case("grid_encode, input gradient", "2^16 points, along rays", call, (x,))


def field_cases() -> Iterator[Case]:
    """The default field, and that of the Toybox preset: 3 layers of 64 channels, smoothstep."""
    sizes = {
        "L8 T2^15": {"num_levels": 8, "log2_hashmap_size": 15, "base_resolution": 8, "desired_resolution": 96},
        "L16 T2^19": {},
    }
    for name, layout in sizes.items():
        field = HashGridField(**layout, blob_density=4.0, blob_radius=2.0)  # rays end within it
        table = field.encoder.embeddings
        table.data = 2 * cases.points(*table.shape) - 1
        for order, make in (("random", cases.points), ("along rays", cases.points_on_rays)):
            x = make(2**18) * 2 - 1
            query = lambda x=x, field=field: field.query(x)  # noqa: E731
            parts = lambda x=x, field=field: NetworkField.evaluate(field, x, 4, "exp", False)  # noqa: E731
            size, parameters = f"2^18 points, {order}, {name}", tuple(field.parameters())
            yield Case("field_query", size, query, parameters)
            yield Case("field_query, parts", size, query, parameters, parts)
            if extension.load("fusedfield") and torch.ops.fusedfield.has_bf16():
                mixed = lambda x=x, field=field: field.evaluate(x, 4, "exp", True)  # noqa: E731
                yield Case("field_query, bf16", size, mixed, parameters, query)
        place = cases.points_on_rays(2**18) * 2 - 1, *cases.intervals_on_rays(2**18), 9.3
        rays = lambda place=place, field=field: field.query_rays(*place)[:2]  # noqa: E731
        rounds = lambda place=place, field=field: Field.query_rays(field, *place)[:2]  # noqa: E731
        size = f"2^18 points, {round(100 * len(rays()[0]) / 2**18)} % reached, {name}"
        yield Case("field_query_rays", size, rays, tuple(field.parameters()))
        yield Case("field_query_rays, rounds", size, rays, tuple(field.parameters()), rounds)


def ray_cases(device: torch.device) -> Iterator[Case]:
    """Rays of a 64 x 64 picture through a ball on a grid of 128^3 cells."""
    origins, directions = cases.rays(4096, device=device)
    box = torch.tensor([-1.0, -1, -1, 1, 1, 1], device=device)
    density = cases.ball_density(128, device=device)
    bits = raymarching.packbits(density, 10.0)
    near, far = raymarching.near_far_from_aabb(origins, directions, box, 0.01)
    noises = cases.points(4096, 1, device=device)[:, 0]
    march = lambda: raymarching.march_rays_train(origins, directions, 1.0, bits, 1, 128, near, far, noises=noises)  # noqa: E731
    _, _, ts, info = march()
    samples = ts.shape[0]
    sigmas = (10 * cases.points(samples, 1, device=device)[:, 0]).requires_grad_()
    rgbs = cases.points(samples, 3, device=device, seed=1).requires_grad_()
    blend = lambda: raymarching.composite_rays_train(sigmas, rgbs, ts, info)  # noqa: E731
    cells = (cases.points(2**18, device=device) * 128).int()
    rays, packed = "4096 rays", f"4096 rays, {samples} samples"
    index = raymarching.morton3D(cells)
    yield Case("near_far_from_aabb", rays, lambda: raymarching.near_far_from_aabb(origins, directions, box, 0.01))
    yield Case("sph_from_ray", rays, lambda: raymarching.sph_from_ray(origins, directions, 5.0))
    yield Case("march_rays_train", packed, march)
    yield Case("march_rays", f"{rays}, 8 steps", inference_march(origins, directions, bits, near, far, noises))
    yield Case("composite_rays_train", packed, blend, (sigmas, rgbs))
    yield Case("flatten_rays", packed, lambda: raymarching.flatten_rays(info, samples))
    yield Case("morton3D", "2^18 cells", lambda: raymarching.morton3D(cells))
    yield Case("morton3D_invert", "2^18 cells", lambda: raymarching.morton3D_invert(index))
    yield Case("packbits", "128^3 cells", lambda: raymarching.packbits(density, 10.0))


def inference_march(origins: Tensor, directions: Tensor, bits: Tensor, near: Tensor, far: Tensor, noises: Tensor):
    alive = torch.arange(4096, device=origins.device, dtype=torch.int32)
    given = (4096, 8, alive, near, origins, directions, 1.0, bits, 1, 128, near, far)
    return lambda: raymarching.march_rays(*given, noises=noises)


def measure(case: Case, rounds: int, device: torch.device) -> Iterator[Row]:
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
                times[side].append(timed(run, repeats[side], device))
        extension.set_mode("native")
        ours, theirs = (1e3 * statistics.median(times[side]) for side in sides)
        ratio = statistics.median(theirs / own for own, theirs in zip(times["ours"], times["theirs"], strict=True))
        yield Row(case.op, case.size, passes, ours, theirs, ratio)


def timed(run: Callable[[], object], repeats: int, device: torch.device) -> float:
    """Seconds a call."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    for _ in range(repeats):
        run()
    wait()
    return (time.perf_counter() - start) / repeats


def environment(device: torch.device) -> dict:
    """What a figure depends on."""
    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    processor = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        processor = models[0].split(":")[1].strip() if models else processor
    return {
        "commit": git.stdout.strip(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor,
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],  # 1 minute average: above the thread count, others were running
    }


def bench_ops(args: argparse.Namespace) -> None:
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("bench.py: --device cuda needs a CUDA device, none is available")
    if args.threads:
        torch.set_num_threads(args.threads)
    extension.set_mode("native")
    missing = [name for name in extension.NAMES if not extension.load(name)]
    if missing:
        sys.exit(f"bench.py: nothing to compare, not built: {', '.join(missing)}")
    report = {"environment": environment(device), "rounds": args.rounds, "rows": []}
    print(" ".join(f"{key}={value}" for key, value in report["environment"].items()))
    print(f"{'operator':28}{'size':40}{'pass':18}{'ours ms':>10}{'torch ms':>10}{'ratio':>8}")
    for case in operator_cases(device):
        if args.op and args.op not in case.op:
            continue
        for row in measure(case, args.rounds, device):
            figures = f"{row.ours_ms:10.3f}{row.reference_ms:10.2f}{row.ratio:8.1f}"
            print(f"{row.op:28}{row.size:40}{row.passes:18}{figures}", flush=True)
            report["rows"].append(asdict(row))
    if args.json:
        Path(args.json).write_text(json.dumps(report, indent=1) + "\n")


def write_markdown(paths: list[str]) -> None:
    """Put the figures of JSON files into docs/benchmarks.md."""
    lines = [
        "# Benchmarks",
        "",
        "Generated by `scripts/bench.py`. Each ratio sets an operator against its torch reference, taking turns in",
        "one process on random data; the median over the rounds. Rows named `parts` and `rounds` set the fused field",
        "against what it replaces instead, compiled operators and torch's linear layers, in the column of torch; rows",
        "named `bf16` set it against itself in float32.",
    ]
    for path in paths:
        report = json.loads(Path(path).read_text())
        where = report["environment"]
        lines += ["", f"## Operators on {where['device']}, {where['threads']} threads", ""]
        lines += [
            f"torch {where['torch']}, Python {where['python']}, commit {where['commit']}, {report['rounds']} rounds,"
        ]
        lines += [f"load average {where['load']:.1f} at the start.", ""]
        lines += ["| operator | size | pass | ours ms | torch ms | ratio |", "|---|---|---|---:|---:|---:|"]
        for row in (Row(**fields) for fields in report["rows"]):
            figures = f"{row.ours_ms:.3f} | {row.reference_ms:.2f} | {row.ratio:.1f}"
            lines += [f"| {row.op} | {row.size} | {row.passes} | {figures} |"]
    target = ROOT / "docs" / "benchmarks.md"
    target.parent.mkdir(exist_ok=True)
    target.write_text("\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--markdown", nargs="+", metavar="JSON", help="write docs/benchmarks.md from these files")
    ops = parser.add_subparsers().add_parser("ops", help="measure the operators")
    ops.add_argument("--device", default="cpu", help="cpu or cuda")
    ops.add_argument("--op", default="", help="only operators whose name contains this")
    ops.add_argument("--json", default="", help="write the figures to this file too")
    ops.add_argument("--rounds", type=int, default=7, help="how often the two take turns")
    ops.add_argument("--threads", type=int, default=0, help="torch threads (0: torch's default)")
    ops.set_defaults(run=bench_ops)
    args = parser.parse_args()
    if args.markdown:
        write_markdown(args.markdown)
    elif hasattr(args, "run"):
        args.run(args)
    else:
        parser.error("say ops or --markdown FILE")


if __name__ == "__main__":
    main()
