"""Draw pictures from Toybox's prior with diffusers alone: one row a prompt, one column a view.

python scripts/sample_toybox.py --text "a frog" --text "a yellow car" --out prior.png
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from diffusers import StableDiffusionPipeline  # noqa: E402
from tqdm import tqdm  # noqa: E402

from guidance.prompts import VIEW_WORDS, view_prompts  # noqa: E402
from nerf.export.files import png_bytes, to_uint8, write_bytes  # noqa: E402
from toybox.captions import Caption, canonical  # noqa: E402
from toybox.lexicon import is_sided, known_to  # noqa: E402
from toybox.words import OBJECTS  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prior", default=str(ROOT / "toybox" / "prior"))
    parser.add_argument("--text", action="append", help="default: every object")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--guidance_scale", type=float, default=4.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    texts = options.text or [str(Caption(name)) for name in OBJECTS]
    chosen = {name: getattr(options, name) for name in ("steps", "guidance_scale", "seed")}
    write_bytes(options.out, sheet(options.prior, texts, **chosen))


def sheet(prior, texts, *, steps, guidance_scale=4.0, seed=0, device="cpu") -> bytes:
    """A PNG of what the prior in a folder draws: a row a sentence, a column a view."""
    pipeline = StableDiffusionPipeline.from_pretrained(prior, dtype=torch.float32).to(device)
    pipeline.set_progress_bar_config(disable=True)
    rows = []
    for text in tqdm([canonical(text) for text in texts], desc="samples", unit="row"):
        pictures = pipeline(
            view_prompts(text, sided=is_sided(known_to(prior)))[: len(VIEW_WORDS)],  # the left side for both
            num_inference_steps=steps,
            guidance_scale=guidance_scale,
            generator=torch.Generator().manual_seed(seed),
            output_type="pt",
        ).images
        rows.append(torch.cat(list(pictures.permute(0, 2, 3, 1)), 1))
    return png_bytes(to_uint8(torch.cat(rows)))


if __name__ == "__main__":
    main()
