"""What the choices of the prior are worth: priors trained on alike but for one thing, measured in 2D and in 3D.

    python scripts/compare_priors.py --work comparisons --minutes 8 --jobs 2 --json docs/priors.json

Each begins from the prior that is here, for from nothing a prior draws one object in eight after 12 minutes on two CPU
cores, and nothing can be compared. Where that would favour what it has learnt (another prediction, another
autoencoder), the layers that read and write latents begin anew, in the row that it is compared with as well. Then
evaluate_prior.py asks each for pictures, and evaluate.py for objects, of the development prompts. The same command goes
on where it was stopped.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import evaluate

from nerf.export.files import write_json

HERE, KEPT = str(evaluate.ROOT / "toybox" / "prior"), ("--vae_minutes", "0")  # the autoencoder is
HEADS_2D = {"name": "object", "colour": "colour", "worn": "worn", "view": "view"}  # of evaluate_prior.py
HEADS_3D = ("IoU", "CIEDE2000", "R-precision", "F-score", "normals", "runs")  # of evaluate.HEADS


@dataclass(frozen=True)
class Choice:
    training: tuple[str, ...] = ()  # options for train_toybox.py
    prior: str | None = None  # of another row, in place of a training
    run: tuple[str, ...] = ()  # options for main.py


CHOICES = {
    "as it is": Choice(KEPT),
    "as it is, another seed": Choice((*KEPT, "--seed", "1")),  # what is less than this apart is not apart
    "grey backgrounds": Choice((*KEPT, "--coloured", "0")),
    "coloured backgrounds": Choice((*KEPT, "--coloured", "1")),
    "albedo alone": Choice((*KEPT, "--lambertian", "0")),
    "textureless 15 %": Choice((*KEPT, "--textureless", "0.15")),
    "textureless 15 %, shown from the middle": Choice(
        prior="textureless 15 %", run=("--albedo_iter_ratio", "0.5", "--textureless_ratio", "1")
    ),
    "anew": Choice((*KEPT, "--anew")),
    "anew, epsilon": Choice((*KEPT, "--anew", "--prediction", "epsilon")),
    "anew, autoencoder too": Choice(("--anew",)),
    "anew, autoencoder too, 4 channels": Choice(("--anew", "--channels", "4")),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    evaluate.which_runs(parser)
    parser.add_argument("--work", type=Path, default=Path("comparisons"), help="priors and pictures")
    parser.add_argument("--minutes", type=float, default=8, help="for text encoder and UNet")
    parser.add_argument("--vae_minutes", type=float, default=8, help="for the autoencoder where it is trained, too")
    parser.add_argument("--solids", type=int, default=6000, help="random objects of each training")
    parser.add_argument("--samples", type=int, default=240, help="pictures of each that are judged in 2D")
    parser.add_argument("--only", action="append", choices=tuple(CHOICES), metavar="ROW", help="these rows alone")
    parser.add_argument("rest", nargs="*", help="after --: options for main.py")
    options = parser.parse_args()
    found = json.loads(options.json.read_text()) if options.json and options.json.exists() else {}
    if others := [name for name, row in found.items() if row.get("base") != base_of(options)]:
        parser.error(f"--json {options.json} has rows of another prior or of other sizes: {', '.join(others)}")
    for name in options.only or CHOICES:
        found[name] = compare(name, options)
        found = {name: found[name] for name in CHOICES if name in found}  # rows of earlier calls, too
        print(table(found), flush=True)
        if options.json:
            write_json(options.json, found)


def compare(name: str, options) -> dict[str, dict]:
    """Train what has to be trained, and measure it.

    Returns:
        {"base": of base_of, "training": its record, "pictures": of evaluate_prior.py, "objects": of evaluate.means}
    """
    choice = CHOICES[name]
    trained = CHOICES[choice.prior or name]
    base = base_of(options)
    place = options.work.resolve() / base / (choice.prior or name).replace(" ", "_")
    prior, judged = place / "prior", place / "pictures.json"
    places = ["--work", place, "--pictures", options.work, "--init", HERE, "--out", prior]
    sizes = ["--solids", options.solids, "--minutes", options.minutes, "--vae_minutes", options.vae_minutes]
    script("train_toybox.py", *places, *sizes, *trained.training)
    if not judged.exists():
        asked = ["--prior", prior, "--prompts", "development", "--samples", options.samples]
        script("evaluate_prior.py", *asked, "--json", judged)
    rest = ["--toybox_dir", str(prior), "--frames", "8", *choice.run, *options.rest]
    runs = options.runs / "priors" / base / name.replace(" ", "_")
    rows, _ = evaluate.evaluate(argparse.Namespace(**{**vars(options), "runs": runs, "rest": rest}))
    return {
        "base": base,
        "training": json.loads((prior / "training.json").read_text()),
        "pictures": json.loads(judged.read_text()),
        "objects": evaluate.means(rows),
    }


def base_of(options) -> str:
    """What all rows that are compared have in common: the prior that they begin from, and the sizes."""
    sums = (Path(HERE) / "SHA256SUMS").read_text()
    sizes = [*map(float, (options.solids, options.minutes, options.vae_minutes, options.samples))]
    return hashlib.sha256(f"{sums} {sizes}".encode()).hexdigest()[:8]


def script(name: str, *words) -> None:
    """Run one of the scripts beside this one, with its bar. Raises CalledProcessError where it breaks."""
    subprocess.run([sys.executable, str(Path(__file__).with_name(name)), *map(str, words)], check=True)


def table(found: dict[str, dict]) -> str:
    """Markdown: a line for each row, shares in 2D before means in 3D."""
    heads = ["", "steps", "dB", *HEADS_2D.values(), *HEADS_3D]
    lines = [heads, ["---"] * len(heads)]
    for name, figures in found.items():
        seen, cells = figures["pictures"], dict(zip(evaluate.HEADS, evaluate.cells(figures["objects"]), strict=True))
        shares = ["-" if seen["all"][key] is None else f"{seen['all'][key]:.0%}" for key in HEADS_2D]
        steps = figures["training"]["steps"] - figures["training"]["steps_before"]
        lines.append([name, str(steps), f"{seen['autoencoder_psnr']:.1f}", *shares, *(cells[key] for key in HEADS_3D)])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


if __name__ == "__main__":
    main()
