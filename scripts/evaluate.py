"""Measure how right Tadpole's results are on Toybox, where the truth is known.

    python scripts/evaluate.py --prompts report --seeds 3 --jobs 2 --json docs/evaluation.json --sheet sheet.png
    python scripts/evaluate.py --workspace out                  # one finished run

Trains every prompt with every seed through main.py, then compares its renderings and its mesh with the true shapes and
colours (toybox/metrics.py, toybox/surface.py) and asks the judge which words they fit (toybox/judge.py). The same
command goes on where it was stopped: complete runs are kept, and refused where they were made with other options or by
another prior. A run that breaks is a line of the table.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Lock

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from tqdm import tqdm  # noqa: E402

from nerf import build, checkpoint  # noqa: E402
from nerf.cameras import cameras_from_views  # noqa: E402
from nerf.config import Config  # noqa: E402
from nerf.export.files import png_bytes, to_uint8, write_bytes, write_json  # noqa: E402
from nerf.types import Shading, Views  # noqa: E402
from toybox import judge, metrics, prompts, surface  # noqa: E402
from toybox.captions import is_held_out, parse  # noqa: E402
from toybox.words import OBJECTS  # noqa: E402

SHEET_VIEWS = (0, 2, 4, 6, 9)  # of metrics.evaluation_views
SHEET_GREY = 0.85  # behind the objects, some of which are white
COLUMNS = {  # figure of a row -> heading and format of its mean
    "iou": ("IoU", ".3f"),
    "colour": ("CIEDE2000", ".1f"),
    "hit": ("R-precision", ".0%"),
    "janus": ("two-faced", ".0%"),
    "ends": ("ends", ".2f"),
    "chamfer": ("Chamfer", ".4f"),
    "fscore": ("F-score", ".3f"),
    "normal": ("normals", ".0f"),
    "train_seconds": ("train s", ".0f"),
    "seconds": ("all s", ".0f"),
    "peak_memory_gb": ("GB", ".2f"),
}
HEADS = (*(heading for heading, _ in COLUMNS.values()), "runs")  # of `cells`
ONE_AT_A_TIME = Lock()  # measuring, beside which other runs train


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which_runs(parser)
    parser.add_argument("--workspace", type=Path, help="measure this finished run alone")
    parser.add_argument("--sheet", type=Path, help="PNG: truth above, result below, the first seed that worked")
    parser.add_argument("rest", nargs="*", help="after --: options for main.py, e.g. -- --iters 600")
    options = parser.parse_args()
    judge.load()  # or say now that it is missing
    if options.workspace:
        found = measure(options.workspace)[0]
        print(json.dumps(found, indent=2))
    else:
        rows, sheets = evaluate(options)
        print(table(rows))
        found = {**asked_of(options.rest), "rows": rows, "summary": summary(rows)}
    if options.json:
        write_json(options.json, found)
    if not options.workspace and options.sheet and sheets:
        write_bytes(options.sheet, png_bytes(to_uint8(in_columns(list(sheets.values())))))


def which_runs(parser: argparse.ArgumentParser) -> None:
    """The options that `evaluate` reads, and --json."""
    parser.add_argument("--prompts", choices=tuple(prompts.LISTS), default="development", help="see toybox/prompts.py")
    parser.add_argument("--text", action="append", help="instead of --prompts; may be given more than once")
    parser.add_argument("--seeds", type=int, default=1, help="0 .. seeds-1")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where the workspaces are or will be")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side, which share the cores")
    parser.add_argument("--json", type=Path)


def evaluate(options) -> tuple[list[dict], dict[str, torch.Tensor]]:
    """Every prompt with every seed: a row of figures each, and a sheet of pictures for each prompt."""
    jobs = [(text, seed) for seed in range(options.seeds) for text in options.text or prompts.LISTS[options.prompts]]
    rows, sheets = [], {}
    pool = ThreadPoolExecutor(options.jobs)
    try:
        found = pool.map(partial(run, options), *zip(*jobs, strict=True))
        for (text, _), (row, sheet) in zip(jobs, tqdm(found, desc="runs", unit="run", total=len(jobs)), strict=True):
            rows.append(row)
            if sheet is not None:
                sheets.setdefault(text, sheet)
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C ends the runs in progress, which go on with the next call
    return rows, sheets


def run(options, text: str, seed: int) -> tuple[dict, torch.Tensor | None]:
    """Train and measure; a row with an `error` in place of figures where that breaks, and no sheet then."""
    workspace = options.runs / f"{text.replace(' ', '_')}-{seed}"
    try:
        train(workspace, text, seed, options.rest, max(1, (os.cpu_count() or 1) // options.jobs))
        with ONE_AT_A_TIME:
            row, sheet = measure(workspace)
    except Exception as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        tqdm.write(f"{text} (seed {seed}): {reason}", file=sys.stderr)
        return {**named(text), "seed": seed, "error": reason}, None
    tqdm.write(f"{text} (seed {seed}): " + ", ".join(f"{key} {row[key]}" for key in ("iou", "rank", "train_seconds")))
    return row | {"seed": seed}, sheet


def named(text: str) -> dict[str, str | bool]:
    """What a row says of its sentence, understood or not."""
    try:
        caption = parse(text)
    except ValueError:
        return {"text": text, "held_out": False}
    return {"text": str(caption), "held_out": is_held_out(caption)}


def asked_of(rest: list[str]) -> dict[str, list[str] | str]:
    """What the results of these options for main.py follow from, but for the code."""
    prior = Path(rest[rest.index("--toybox_dir") + 1] if "--toybox_dir" in rest else Config().guidance.toybox_dir)
    sums = prior / "SHA256SUMS"
    return {"options": rest, "prior": hashlib.sha256(sums.read_bytes()).hexdigest()[:12] if sums.exists() else ""}


def train(workspace: Path, text: str, seed: int, rest: list[str], threads: int) -> None:
    """A run through the command line, unless it is complete already.

    Raises:
        RuntimeError: It does not get there, or what is there was asked for in another way.
    """
    asked, note = asked_of(rest), workspace / "asked.json"
    if note.exists() and json.loads(note.read_text()) != asked:
        raise RuntimeError(f"{workspace} was made with other options or by another prior: take another --runs")
    if is_complete(workspace):
        return
    write_json(note, asked)
    command = [sys.executable, "main.py", "--text", text, "--seed", str(seed), "--workspace", str(workspace.resolve())]
    command += ["--guidance", "toybox"]  # whatever else this machine could take
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run([*command, *rest], cwd=ROOT, capture_output=True, text=True, env=environment)
    if not is_complete(workspace):  # one that only lacks its mesh, as an empty scene does, is measured all the same
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(f"main.py ended with status {done.returncode}: {last}")


def is_complete(workspace: Path) -> bool:
    """Whether a run was trained to its end: an interrupted one has a report, too, but without its text."""
    report = workspace / "run.json"
    return report.exists() and "text" in json.loads(report.read_text())


@torch.no_grad()
def measure(workspace: Path) -> tuple[dict, torch.Tensor]:
    """The figures of a run, and a row of pictures: truth above, result below."""
    path = checkpoint.find(workspace)
    if path is None:
        raise ValueError(f"{workspace} has no checkpoint")
    meta = checkpoint.read_meta(path)
    here = {"workspace": str(workspace), "ckpt": "latest", "device": "cpu"}
    renderer = build.load_trained(Config().updated({**meta["config"], **here}))
    caption = parse(meta["text"])
    azimuth, elevation = metrics.evaluation_views()
    views = Views(azimuth, elevation, torch.full_like(azimuth, metrics.RADIUS))
    out = renderer.render(
        cameras_from_views(views, metrics.FOVY, metrics.SIZE, metrics.SIZE), Shading(), background=torch.zeros(3)
    )
    opacity = out.opacity[..., 0]
    albedo = (out.rgb / out.opacity.clamp(min=1e-3)).clamp(0, 1)
    score = metrics.score(caption, opacity, albedo)
    answers = judge.judge_result(opacity, albedo)
    rank = judge.rank(caption, answers, [parse(text) for text in prompts.ALL])
    true, has_front = metrics.truth(caption), OBJECTS[caption.name].has_front
    report = json.loads((workspace / "run.json").read_text())
    at_once = not report.get("from_step")  # else the times are those of its last part alone
    row = {
        **named(meta["text"]),
        "iou": score.iou,
        "colour": score.colour,
        "rank": rank,
        "hit": rank == 1,
        "ends": score.ends if has_front else None,
        "janus": judge.is_two_faced(answers, azimuth) or score.ends < metrics.TWO_HEADED if has_front else None,
        **compare_mesh(workspace / "mesh" / "mesh.obj", true.solids[score.variant]),
        "train_seconds": report["seconds"]["train"] if at_once else None,
        "seconds": sum(report["seconds"].values()) if at_once else None,
        "peak_memory_gb": report["peak_memory_gb"],
    }
    shown = torch.tensor(SHEET_VIEWS)
    top = true.albedo[score.variant][shown] + SHEET_GREY * ~true.silhouettes[score.variant][shown][..., None]
    bottom = out.rgb[shown] + SHEET_GREY * (1 - out.opacity[shown])
    row = {key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}
    row = {key: value if value == value else None for key, value in row.items()}  # NaN: nothing overlaps
    return row, torch.cat([torch.cat(list(top), 1), torch.cat(list(bottom), 1)])


def compare_mesh(path: Path, solid: torch.Tensor) -> dict[str, float | None]:
    """Distances of the exported mesh from the true surface; F-score 0 and no distance where there is no mesh."""
    if not path.exists():
        return {"chamfer": None, "fscore": 0.0, "normal": None}
    found = surface.difference(surface.of_mesh(*read_obj(path)), surface.of_solid(solid))
    return {"chamfer": found.chamfer, "fscore": found.fscore, "normal": found.normal}


def read_obj(path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Vertices [V, 3] and triangles [F, 3] of an OBJ file as nerf/export/obj.py writes it."""
    lines = [line.split() for line in path.read_text().splitlines()]
    vertices = [[float(number) for number in words[1:]] for words in lines if words and words[0] == "v"]
    faces = [[int(word.split("/")[0]) - 1 for word in words[1:]] for words in lines if words and words[0] == "f"]
    return torch.tensor(vertices).view(-1, 3), torch.tensor(faces, dtype=torch.int64).view(-1, 3)


def in_columns(sheets: list[torch.Tensor], columns: int = 2) -> torch.Tensor:
    """Sheets beside and below each other, white where the last ones are missing."""
    sheets = sheets + [torch.ones_like(sheets[0])] * (-len(sheets) % columns)
    rows = [torch.cat(sheets[i : i + columns], 1) for i in range(0, len(sheets), columns)]
    return torch.cat(rows)


def means(rows: list[dict]) -> dict[str, float | int | None]:
    """Of every figure over the runs that have it; `runs` and how many of them broke."""
    found = {"runs": len(rows), "broken": sum("error" in row for row in rows)}
    for key in COLUMNS:
        values = [row[key] for row in rows if row.get(key) is not None]
        found[key] = round(sum(values) / len(values), 4) if values else None
    return found


def summary(rows: list[dict]) -> dict[str, dict]:
    """Means over all runs, and over those whose pair of words no training caption has."""
    return {"all": means(rows), "held_out": means([row for row in rows if row.get("held_out")])}


def table(rows: list[dict]) -> str:
    """Markdown: a line a prompt with its seeds, * where the pair of words is held out, then the means."""
    heads = ["prompt", "IoU by seed", *HEADS]
    lines = [heads, ["---"] * len(heads)]
    for text in dict.fromkeys(row["text"] for row in rows):
        mine = [row for row in rows if row["text"] == text]
        star = "*" if any(row.get("held_out") for row in mine) else ""
        seeds = " ".join("broken" if "error" in row else f"{row['iou']:.2f}" for row in mine)
        lines.append([text + star, seeds, *cells(means(mine))])
    lines.append(["**mean**", "", *cells(means(rows))])
    if any(row.get("held_out") for row in rows):
        lines.append(["**mean of held-out***", "", *cells(means([row for row in rows if row.get("held_out")]))])
    errors = [f"{row['text']} (seed {row['seed']}): {row['error']}" for row in rows if "error" in row]
    return "\n".join([*(f"| {' | '.join(line)} |" for line in lines), *errors])


def cells(found: dict[str, float | int | None]) -> list[str]:
    """The figures of `means` as the table shows them, and of how many runs they are."""
    figures = ["-" if found[key] is None else format(found[key], style) for key, (_, style) in COLUMNS.items()]
    runs, broken = found["runs"], found["broken"]
    return [*figures, f"{runs - broken} of {runs}" if broken else str(runs)]


if __name__ == "__main__":
    main()
