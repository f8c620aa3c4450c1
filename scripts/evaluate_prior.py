"""Measure Toybox's prior in 2D: do its pictures show what was asked for, and does its autoencoder keep pictures?

    python scripts/evaluate_prior.py --json docs/evaluation_prior.json
    python scripts/evaluate_prior.py --samples 24 --batch 8            # a quick look

Every report prompt (toybox/prompts.py) with every view word in turn, drawn with DDIM; the judge says what is seen.
It is asked about true pictures of the same as well: a prior that draws the truth would have those figures.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections import defaultdict
from operator import itemgetter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import Tensor  # noqa: E402
from tqdm import tqdm  # noqa: E402

from guidance.prompts import view_prompts  # noqa: E402
from nerf.export.files import write_json  # noqa: E402
from toybox import judge, pictures, prompts, shapes  # noqa: E402
from toybox.captions import Caption, is_held_out, parse  # noqa: E402
from toybox.judge import HEADS, NONE  # noqa: E402
from toybox.lexicon import is_sided, known_to  # noqa: E402
from toybox.words import OBJECTS, VIEWS  # noqa: E402

AZIMUTHS = {"front": 0.0, "side": 90.0, "back": 180.0}  # where a view word alone describes a view, degrees
LEVEL, OVERHEAD = (55.0, 90.0), (5.0, 20.0)  # polar angles of that


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prior", type=Path, default=ROOT / "toybox" / "prior")
    parser.add_argument("--prompts", choices=tuple(prompts.LISTS), default="report")
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--guidance_scale", type=float, default=4.0)
    parser.add_argument("--batch", type=int, default=20)
    parser.add_argument("--pictures", type=int, default=64, help="true pictures through the autoencoder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    from diffusers import StableDiffusionPipeline

    judge.load()  # or say now that it is missing
    pipeline = StableDiffusionPipeline.from_pretrained(options.prior, dtype=torch.float32).to(options.device)
    pipeline.set_progress_bar_config(disable=True)
    asked = wanted(prompts.LISTS[options.prompts], options.samples)
    answers, true = draw(pipeline, asked, options), show(asked, options.seed)
    held_out = torch.tensor([is_held_out(caption) for caption, _ in asked])
    report = {
        **{key: getattr(options, key) for key in ("prompts", "samples", "steps", "guidance_scale", "seed")},
        "all": shares(asked, answers),
        "held_out": shares(
            [pair for pair, held in zip(asked, held_out, strict=True) if held],
            {head: part[held_out] for head, part in answers.items()},
        ),
        "details": details(asked, answers),
        "truth": {"all": shares(asked, true), "details": details(asked, true)},
        "autoencoder_psnr": round(autoencoder_psnr(pipeline.vae, options), 2),
        "megabytes": round(sum(path.stat().st_size for path in options.prior.rglob("*") if path.is_file()) / 1e6, 2),
    }
    print(json.dumps(report, indent=2))
    if options.json:
        write_json(options.json, report)


def wanted(texts, samples: int) -> list[tuple[Caption, str]]:
    """What each sample is asked to show: a caption and one of VIEWS; each pair as often as any other, but for one."""
    pairs = itertools.cycle((parse(text), view) for view in VIEWS for text in texts)
    return list(itertools.islice(pairs, samples))


@torch.no_grad()
def draw(pipeline, asked, options) -> dict[str, Tensor]:
    """The judge's answers about a sample of each. Every sample has a seed of its own: batches change nothing.

    Returns: {head: [B, answers]}
    """
    parts, sided = [], is_sided(known_to(options.prior))  # then the left side stands for both
    for start in tqdm(range(0, len(asked), options.batch), desc="samples", unit="batch"):
        some = asked[start : start + options.batch]
        images = pipeline(
            [view_prompts(str(caption), sided=sided)[VIEWS.index(view)] for caption, view in some],
            num_inference_steps=options.steps,
            guidance_scale=options.guidance_scale,
            generator=[torch.Generator().manual_seed(options.seed + start + i) for i in range(len(some))],
            output_type="pt",
        ).images
        parts.append(judge.load()(judge.resize(images.float().cpu())))
    return {head: torch.cat([part[head] for part in parts]) for head in HEADS}


@torch.no_grad()
def show(asked, seed: int) -> dict[str, Tensor]:
    """The judge's answers about a true picture of each. {head: [B, answers]}"""
    parts = []
    for i, (caption, view) in enumerate(tqdm(asked, desc="truth", unit="picture")):
        rng = np.random.default_rng((seed, 8, i))
        elevation = 90 - rng.uniform(*(OVERHEAD if view == "overhead" else LEVEL), 1)
        azimuth = np.array([AZIMUTHS.get(view, rng.uniform(0, 360))])
        solid = torch.from_numpy(shapes.build(caption, rng=rng))
        image = torch.from_numpy(pictures.show(solid, azimuth, elevation, rng)).float() / 255
        parts.append(judge.load()(judge.resize(image)))
    return {head: torch.cat([part[head] for part in parts]) for head in HEADS}


def shares(asked: list[tuple[Caption, str]], answers: dict[str, Tensor]) -> dict[str, float | None]:
    """Share of right answers by head, of the samples that were asked for one; None: there are none.

    `nothing_else`: no pattern, nothing worn and no support that was not asked for.
    `r_precision`: the caption fits its picture better than every other prompt and its own near variants.
    """
    found, said = seen(answers), wanted_words(asked)
    result = {
        head: _mean(word == wish for word, wish in zip(found[head], wishes, strict=True) if wish)
        for head, wishes in said.items()
    }
    result["nothing_else"] = _mean(
        all(found[head][i] == NONE or said[head][i] for head in ("pattern", "worn", "support"))
        for i in range(len(asked))
    )
    captions = [parse(text) for text in prompts.ALL]
    one = lambda i: {head: part[i : i + 1] for head, part in answers.items()}  # noqa: E731
    result["r_precision"] = _mean(judge.rank(caption, one(i), captions) == 1 for i, (caption, _) in enumerate(asked))
    return result


def details(asked: list[tuple[Caption, str]], answers: dict[str, Tensor]) -> dict[str, dict[str, dict[str, float]]]:
    """Shares of right answers about the object, what it wears and the view: by view and by object, worst first."""
    found, said = seen(answers), wanted_words(asked)
    result = {}
    for head in ("name", "worn", "view"):
        by_view, by_object = defaultdict(list), defaultdict(list)
        for (caption, view), word, wish in zip(asked, found[head], said[head], strict=True):
            if wish:
                by_view[view].append(word == wish)
                by_object[caption.name].append(word == wish)
        result[head] = {"by_view": _worst_first(by_view), "by_object": _worst_first(by_object)}
    return result


def _worst_first(hits: dict[str, list[bool]]) -> dict[str, float]:
    return dict(sorted(((key, _mean(hit)) for key, hit in hits.items()), key=itemgetter(1, 0)))


def seen(answers: dict[str, Tensor]) -> dict[str, list[str]]:
    """The judge's words."""
    return {head: [HEADS[head][i] for i in part.argmax(1).tolist()] for head, part in answers.items()}


def wanted_words(asked: list[tuple[Caption, str]]) -> dict[str, list[str | None]]:
    """What it should say; None where it is not asked. Of the view, only about objects that have a front."""
    said = {head: [getattr(caption, head) for caption, _ in asked] for head in HEADS if head != "view"}
    said["view"] = [view if OBJECTS[caption.name].has_front else None for caption, view in asked]
    return said


def _mean(values) -> float | None:
    values = list(values)
    return round(sum(values) / len(values), 4) if values else None


@torch.no_grad()
def autoencoder_psnr(vae, options) -> float:
    """Of true pictures after encoding and decoding, mean in dB; solids that no training has seen."""
    found = []
    for i in tqdm(range(options.pictures), desc="autoencoder", unit="picture"):
        made = pictures.sample(np.random.default_rng((options.seed, 7, i)), views=1, held_out=True).images
        images = torch.from_numpy(made).to(options.device).float() / 255
        again = vae.decode(vae.encode(2 * images - 1).latents).sample / 2 + 0.5
        found.append(-10 * (again.clamp(0, 1) - images).square().mean().log10())
    return float(torch.stack(found).mean())


if __name__ == "__main__":
    main()
