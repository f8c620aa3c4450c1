"""Measure how right Tadpole's results are on Toybox, where the truth is known.

    python scripts/evaluate.py --runs runs --seeds 3 --json docs/evaluation.json --sheet docs/gallery/evaluation.png
    python scripts/evaluate.py --workspace out                  # one finished run

Trains every prompt with every seed through main.py (runs that are there are kept, so that the same command goes on),
then compares 16 views with the true shapes and colours (toybox/metrics.py).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from tqdm import tqdm  # noqa: E402

from nerf import build, checkpoint  # noqa: E402
from nerf.cameras import cameras_from_views  # noqa: E402
from nerf.config import Config  # noqa: E402
from nerf.export.files import png_bytes, to_uint8, write_bytes  # noqa: E402
from nerf.types import Shading, Views  # noqa: E402
from toybox import metrics  # noqa: E402
from toybox.words import OBJECTS, caption  # noqa: E402

PROMPTS = {"objects": [caption(name) for name in OBJECTS]}
SHEET_VIEWS = (0, 2, 4, 6, 9)  # of metrics.evaluation_views
SHEET_GREY = 0.85  # behind the objects, some of which are white


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", choices=tuple(PROMPTS), default="objects")
    parser.add_argument("--text", action="append", help="instead of --prompts; may be given more than once")
    parser.add_argument("--seeds", type=int, default=1, help="0 .. seeds-1")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where the workspaces are or will be")
    parser.add_argument("--workspace", type=Path, help="measure this finished run alone")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side, which share the cores")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--sheet", type=Path, help="PNG: truth above, result below, seed 0")
    parser.add_argument("rest", nargs="*", help="after --: options for main.py, e.g. -- --iters 600")
    options = parser.parse_args()
    if options.workspace:
        print(json.dumps(measure(options.workspace)[0], indent=2))
        return
    texts = options.text or PROMPTS[options.prompts]
    jobs = [(text, seed) for seed in range(options.seeds) for text in texts]
    rows, pictures = [], {}
    threads = max(1, (os.cpu_count() or 1) // options.jobs)
    with ThreadPoolExecutor(options.jobs) as pool:
        runs = [options.runs / f"{text.replace(' ', '_')}-{seed}" for text, seed in jobs]
        made = pool.map(lambda run, job: train(run, *job, options.rest, threads), runs, jobs)
        list(tqdm(made, desc="runs", unit="run", total=len(jobs)))
    for (text, seed), workspace in zip(jobs, runs, strict=True):
        row, sheet = measure(workspace)
        rows.append(row | {"seed": seed})
        pictures.setdefault(text, sheet)
    print(table(rows))
    if options.json:
        write_bytes(options.json, (json.dumps({"rows": rows, "summary": summary(rows)}, indent=2) + "\n").encode())
    if options.sheet:
        rows_of_two = [torch.cat(pair, 1) for pair in zip(*[iter(padded(list(pictures.values())))] * 2, strict=True)]
        write_bytes(options.sheet, png_bytes(to_uint8(torch.cat(rows_of_two))))


def padded(sheets: list[torch.Tensor]) -> list[torch.Tensor]:
    """An even number of sheets, the last one white where need be."""
    return sheets + [torch.ones_like(sheets[0])] * (len(sheets) % 2)


def train(workspace: Path, text: str, seed: int, rest: list[str], threads: int) -> None:
    """A run through the command line, unless it is complete already."""
    if (workspace / "run.json").exists() and "text" in json.loads((workspace / "run.json").read_text()):
        return
    command = [sys.executable, "main.py", "--text", text, "--seed", str(seed), "--workspace", str(workspace.resolve())]
    start = time.perf_counter()
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run([*command, *rest], cwd=ROOT, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    tqdm.write(f"{text} (seed {seed}): trained in {time.perf_counter() - start:.0f} s")


@torch.no_grad()
def measure(workspace: Path) -> tuple[dict, torch.Tensor]:
    """The scores of a run, and a row of pictures: truth above, result below."""
    meta = checkpoint.read_meta(checkpoint.find(workspace))
    config = Config().updated({**meta["config"], "workspace": str(workspace), "ckpt": "latest"})
    renderer = build.load_trained(config)
    azimuth, elevation = metrics.evaluation_views()
    views = Views(azimuth, elevation, torch.full_like(azimuth, metrics.RADIUS))
    cameras = cameras_from_views(views, metrics.FOVY, metrics.SIZE, metrics.SIZE)
    out = renderer.render(cameras, Shading(), background=torch.zeros(3))
    opacity = out.opacity[..., 0]
    albedo = (out.rgb / out.opacity.clamp(min=1e-3)).clamp(0, 1)
    score = metrics.score(meta["text"], opacity, albedo)
    run = json.loads((workspace / "run.json").read_text())
    row = {
        "text": meta["text"],
        "iou": round(score.iou, 4),
        "colour": round(score.colour, 2),
        "janus": score.janus,
        "seconds": run["seconds"],
        "peak_memory_gb": run["peak_memory_gb"],
    }
    true = metrics.truth(meta["text"])
    shown = torch.tensor(SHEET_VIEWS)
    top = true.albedo[score.variant][shown] + SHEET_GREY * ~true.silhouettes[score.variant][shown][..., None]
    bottom = out.rgb[shown] + SHEET_GREY * (1 - out.opacity[shown])
    return row, torch.cat([torch.cat(list(top), 1), torch.cat(list(bottom), 1)])


def summary(rows: list[dict]) -> dict:
    """Means over all runs, and over the runs of each prompt."""
    faces = [row["janus"] for row in rows if row["janus"] is not None]
    mean = lambda values: round(sum(values) / max(len(values), 1), 4)  # noqa: E731
    return {
        "runs": len(rows),
        "iou": mean([row["iou"] for row in rows]),
        "colour": mean([row["colour"] for row in rows]),
        "janus_rate": mean(faces),
        "train_seconds": mean([row["seconds"].get("train", 0) for row in rows]),
        "iou_by_prompt": {
            text: mean([row["iou"] for row in rows if row["text"] == text])
            for text in dict.fromkeys(row["text"] for row in rows)
        },
    }


def table(rows: list[dict]) -> str:
    """Markdown: a line a prompt with its seeds, then the means."""
    lines = ["| prompt | IoU by seed | IoU | CIEDE2000 | two-faced |", "|---|---|---|---|---|"]
    for text in dict.fromkeys(row["text"] for row in rows):
        mine = [row for row in rows if row["text"] == text]
        total = summary(mine)
        janus = "-" if mine[0]["janus"] is None else f"{sum(row['janus'] for row in mine)} of {len(mine)}"
        seeds = " ".join(f"{row['iou']:.2f}" for row in mine)
        lines.append(f"| {text} | {seeds} | {total['iou']:.3f} | {total['colour']:.1f} | {janus} |")
    total = summary(rows)
    lines.append(f"| mean | | {total['iou']:.3f} | {total['colour']:.1f} | {total['janus_rate']:.0%} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
