"""Draw the small world: every object, or the captions given, from the front, the side, the back and above.

python scripts/draw_world.py --out docs/gallery/world.png
python scripts/draw_world.py --text "a spotted frog wearing a hat" --out frog.png
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from tqdm import tqdm  # noqa: E402

from nerf.export.files import png_bytes, to_uint8, write_bytes  # noqa: E402
from toybox import pictures, shapes  # noqa: E402
from toybox.captions import Caption, parse  # noqa: E402
from toybox.tracer import cameras, trace  # noqa: E402
from toybox.words import OBJECTS  # noqa: E402

AZIMUTH, ELEVATION = (15.0, 90.0, 180.0, 20.0), (15.0, 10.0, 12.0, 65.0)  # degrees
AMBIENT, BACKGROUND, LABEL = 0.55, 0.8, 14  # LABEL: pixels for the words


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", action="append", help="default: every object")
    parser.add_argument("--size", type=int, default=96, help="pixels a side of a picture")
    parser.add_argument("--columns", type=int, default=4, help="objects side by side")
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    captions = [parse(text) for text in options.text] if options.text else [Caption(name) for name in OBJECTS]
    strips = [draw(caption, options.size, options.seed) for caption in tqdm(captions, unit="object")]
    columns = min(options.columns, len(strips))
    strips += [torch.ones_like(strips[0])] * (-len(strips) % columns)
    rows = [torch.cat(strips[i : i + columns], 1) for i in range(0, len(strips), columns)]
    write_bytes(options.out, png_bytes(to_uint8(torch.cat(rows))))


def draw(caption: Caption, size: int, seed: int) -> torch.Tensor:
    """One variant from the four sides, its words below. [size + LABEL, 4 size, 3] in [0, 1]"""
    solid = torch.from_numpy(shapes.build(caption, rng=np.random.default_rng(seed)))
    count = len(AZIMUTH)
    views = cameras(torch.tensor(AZIMUTH), torch.tensor(ELEVATION), torch.full((count,), 3.2), torch.full((count,), 20))
    seen = []
    for view, buffers in zip(views, trace(solid, views, 2 * size), strict=True):
        light = torch.nn.functional.normalize(view[:3] / 3.2 + torch.tensor([0.3, 0.7, 0.0]), dim=0)
        colour = pictures.shade(buffers, AMBIENT, light)
        seen.append(pictures.compose(colour, buffers[..., 3:4], torch.full((3,), BACKGROUND)))
    label = np.full((LABEL, size * count, 3), int(255 * BACKGROUND), np.uint8)
    cv2.putText(label, str(caption), (4, LABEL - 4), cv2.FONT_HERSHEY_SIMPLEX, 0.36, (40, 40, 40), 1, cv2.LINE_AA)
    return torch.cat([torch.cat(seen, 1), torch.from_numpy(label) / 255])


if __name__ == "__main__":
    main()
