"""What each part of Toybox's recipe is worth: the same prompts under the preset and with one thing changed.

    python scripts/ablate.py --prompts development --jobs 2 --json docs/ablations.json

Every row trains each prompt through main.py and measures it as scripts/evaluate.py does. The same command goes on where
it was stopped.
"""

from __future__ import annotations

import argparse
import json

import evaluate

from nerf.export.files import write_json

ABLATIONS = {  # name of a row -> options for main.py
    "the preset": (),
    "no view words": ("--no_view_words",),
    "Perp-Neg": ("--perpneg",),
    "progressive view": ("--progressive_view",),
    "timesteps fixed": ("--t_schedule", "uniform"),
    "DreamTime": ("--t_schedule", "dreamtime"),
    "CSD": ("--distill", "csd"),
    "NFSD": ("--distill", "nfsd"),
    "SDI": ("--distill", "sdi"),
    "ISM": ("--distill", "ism"),
    "HiFA": ("--distill", "hifa"),
    "through the latents": ("--distill_space", "latents", "--lambda_guidance", "1"),
    "three times the guidance": ("--lambda_guidance", "1"),
    "guidance rescaled": ("--cfg_rescale", "0.7"),
    "guidance fixed at 8": ("--guidance_anneal", "0"),
    "guidance fixed at 4": ("--guidance_scale", "4", "--guidance_anneal", "0"),
    "lambertian from the middle": ("--albedo_iter_ratio", "0.5", "--textureless_ratio", "0"),
    "textureless from the middle": ("--albedo_iter_ratio", "0.5", "--textureless_ratio", "1"),
    "no opacity loss": ("--lambda_opacity", "0"),
    "no entropy loss": ("--lambda_entropy", "0"),
    "a tenth of the opacity loss": ("--lambda_opacity", "1"),
    "no orientation loss": ("--lambda_orient", "0"),
    "total variation": ("--lambda_tv", "0.1"),
    "half the steps": ("--iters", "300"),
    "half the rate": ("--lr", "2e-3"),
    "twice the rate": ("--lr", "8e-3"),
    "a rate that stays": ("--lr_decay", "1"),
    "four views a step": ("--batch_size", "4"),
    "96 pixels": ("--w", "96", "--h", "96"),
    "128 pixels at the end": ("--end_h", "128"),
    "twice the samples": ("--max_steps", "256"),
    "64 channels": ("--hidden_dim", "64"),
    "bf16": ("--fp16",),
    "table of 2^17": ("--log2_hashmap_size", "17"),
    "random colours behind": ("--background", "color"),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    evaluate.which_runs(parser)
    parser.add_argument("--only", action="append", choices=tuple(ABLATIONS), metavar="ROW", help="these rows alone")
    options = parser.parse_args()
    found = json.loads(options.json.read_text()) if options.json and options.json.exists() else {}
    prior = evaluate.asked_of([])["prior"]
    if others := [name for name, row in found.items() if row.get("prior") != prior]:
        parser.error(f"--json {options.json} has rows of another prior: {', '.join(others)}; take another file")
    for name in options.only or ABLATIONS:
        runs, rest = options.runs / "ablations" / name.replace(" ", "_"), [*ABLATIONS[name], "--frames", "8"]
        rows, _ = evaluate.evaluate(argparse.Namespace(**{**vars(options), "runs": runs, "rest": rest}))
        found[name] = {"prior": prior, **evaluate.means(rows)}
        found = {name: found[name] for name in ABLATIONS if name in found}  # rows of earlier calls, too
        print(table(found), flush=True)
        if options.json:
            write_json(options.json, found)


def table(found: dict[str, dict]) -> str:
    """Markdown: a line for each name."""
    heads = ["", *evaluate.HEADS]
    lines = [heads, ["---"] * len(heads)]
    lines += [[name, *evaluate.cells(means)] for name, means in found.items()]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


if __name__ == "__main__":
    main()
