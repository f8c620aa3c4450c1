"""The judge: a small classifier that says what a picture shows, so that a result can be asked which words it fits.

It is trained on true pictures of every pair of words (scripts/train_judge.py) and never sees a caption of the prior.
Letters: B pictures, V = 16 views, R pixels.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from toybox.captions import Caption
from toybox.colour import ciede2000, lab
from toybox.words import COLOURS, OBJECTS, PATTERNS, SUPPORTS, VIEWS, WORN

FILE = Path(__file__).with_name("judge.safetensors")
SIZE = 64  # pixels a side
GREYS = (0.3, 0.75)  # backgrounds a result is judged on: no object hides on both
NONE = "none"
HEADS = {  # what is asked -> the possible answers
    "name": tuple(OBJECTS),
    "colour": tuple(COLOURS),
    "pattern": (NONE, *PATTERNS),
    "worn": (NONE, *WORN),
    "worn_colour": tuple(COLOURS),
    "support": (NONE, *SUPPORTS),
    "support_colour": tuple(COLOURS),
    "view": VIEWS,
}
WIDTHS = (16, 32, 80, 144)


class Block(nn.Module):
    """Two convolutions and a shortcut (He et al., arXiv:1512.03385), half the resolution."""

    def __init__(self, before: int, after: int):
        super().__init__()
        self.first = nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False)
        self.second = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(before, after, 1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(after) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        inner = self.norms[1](self.second(self.norms[0](self.first(x)).relu()))
        return (inner + self.norms[2](self.shortcut(F.avg_pool2d(x, 2)))).relu()


class Judge(nn.Module):
    """Pictures in [0, 1] -> for every head the logarithm of the probability of each answer."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTHS[0], 5, stride=2, padding=2)
        self.blocks = nn.Sequential(*(Block(a, b) for a, b in zip(WIDTHS, WIDTHS[1:], strict=False)))
        self.last = nn.Sequential(
            nn.Conv2d(WIDTHS[-1], WIDTHS[-1], 3, padding=1, bias=False), nn.BatchNorm2d(WIDTHS[-1]), nn.ReLU()
        )
        self.answers = nn.Linear(2 * WIDTHS[-1], sum(map(len, HEADS.values())))

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        """[B, 3, SIZE, SIZE] -> {head: [B, answers]}"""
        x = (2 * pictures - 1).contiguous(memory_format=torch.channels_last)
        x = self.last(self.blocks(self.stem(x).relu()))
        logits = self.answers(torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1))
        parts = logits.split([len(answers) for answers in HEADS.values()], 1)
        return {head: part.log_softmax(1) for head, part in zip(HEADS, parts, strict=True)}


def save(judge: Judge, path: Path = FILE, **record: object) -> None:
    """Half precision weights, with what they answer and how they were trained."""
    from safetensors.torch import save_file

    tensors = {name: t.half() if t.is_floating_point() else t for name, t in judge.state_dict().items()}
    tensors = {name: t.contiguous() for name, t in tensors.items()}  # not channels last, which the format does not know
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, {"answers": _answers(), **{name: str(value) for name, value in record.items()}})
    partial.chmod(0o644)  # safetensors makes them private
    partial.replace(path)


@lru_cache(maxsize=2)
def load(path: Path = FILE) -> Judge:
    """The trained judge.

    Raises:
        FileNotFoundError, ValueError: it is not there, or was trained for other words or layers; the message says what
            to do.
    """
    from safetensors import safe_open

    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: `python scripts/train_judge.py` makes it")
    with safe_open(path, "pt") as file:
        if file.metadata()["answers"] != _answers():
            raise ValueError(f"{path} was trained for other words: `python scripts/train_judge.py` trains it again")
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    judge = Judge()
    try:
        judge.load_state_dict({name: t.float() if t.is_floating_point() else t for name, t in tensors.items()})
    except RuntimeError:
        again = "`python scripts/train_judge.py` trains it again"
        raise ValueError(f"{path} holds a network of other layers than toybox/judge.py: {again}") from None
    return judge.eval().requires_grad_(False)


def _answers() -> str:
    return "; ".join(f"{head}: {', '.join(answers)}" for head, answers in HEADS.items())


@lru_cache(maxsize=512)
def appearance(caption: Caption) -> dict[str, str]:
    """What pictures of a caption show: an answer for every head that has one; the usual colour where none is said.

    Two captions of the same appearance ("a frog", "a green frog") are the same picture.
    """
    seen = {head: value or NONE for head, value in asdict(caption).items()}
    usual = {"colour": OBJECTS[caption.name].usual, "worn_colour": WORN.get(caption.worn)}
    usual["support_colour"] = SUPPORTS.get(caption.support)
    for head, rgb in usual.items():
        if seen[head] == NONE and rgb:
            seen[head] = nearest_colour(rgb)
    return {head: value for head, value in seen.items() if value in HEADS[head]}


def nearest_colour(rgb: tuple[float, float, float]) -> str:
    """The colour word that is nearest to a colour in [0, 1], by CIEDE2000."""
    known = torch.tensor(list(COLOURS.values()))
    return list(COLOURS)[int(ciede2000(lab(torch.tensor(rgb)).expand(len(known), 3), lab(known)).argmin())]


def log_likelihood(caption: Caption, answers: dict[str, Tensor]) -> Tensor:
    """How well pictures fit a caption: the sum over what the caption shows. -> [B]"""
    seen = appearance(caption).items()
    return sum(answers[head][:, HEADS[head].index(value)] for head, value in seen)


def rivals(caption: Caption, captions: list[Caption]) -> list[Caption]:
    """What a caption has to beat: the others, and itself with any one word exchanged; none of its own appearance."""
    mine = appearance(caption)
    colours = {head: mine.get(head) for head in ("colour", "worn_colour", "support_colour")}
    names = [name for name, word in OBJECTS.items() if word.wears or not caption.worn]
    said = replace(caption, **colours)  # another object, hat or box is of the colour that is seen
    changed = [replace(given, name=name) for name in names for given in (caption, said)]
    changed += [replace(caption, **{head: colour}) for head, seen in colours.items() if seen for colour in COLOURS]
    changed += [replace(caption, pattern=pattern) for pattern in (None, *PATTERNS)]
    changed += [replace(said, support=thing) for thing in SUPPORTS]
    changed += [replace(caption, support=None, support_colour=None), replace(caption, worn=None, worn_colour=None)]
    changed += [replace(said, worn=thing) for thing in WORN if OBJECTS[caption.name].wears]
    return [other for other in dict.fromkeys([*captions, *changed]) if appearance(other) != mine]


def rank(caption: Caption, answers: dict[str, Tensor], captions: list[Caption]) -> int:
    """R-precision (DreamFusion, arXiv:2209.14988, section 4): 1 where the right caption fits the pictures best.

    Args:
        answers: From a Judge, for several views of one result. {head: [B, answers]}
        captions: Other captions, which are rivals with the caption's own near variants.

    Returns:
        1 + the number of rivals whose mean log-likelihood over the pictures is higher.
    """
    right = log_likelihood(caption, answers).mean()
    return 1 + sum(bool(log_likelihood(other, answers).mean() > right) for other in rivals(caption, captions))


def is_two_faced(answers: dict[str, Tensor], azimuth: Tensor) -> bool:
    """Whether the views from behind, taken together, show a front (Janus). {head: [V, answers]}, [V] degrees"""
    return VIEWS[int(answers["view"][azimuth == 180].mean(0).argmax())] == "front"


@torch.no_grad()
def judge_result(opacity: Tensor, albedo: Tensor, judge: Judge | None = None) -> dict[str, Tensor]:
    """Answers about renderings of a result, over a dark and a light grey: their mean.

    Args:
        opacity: [V, R, R] in [0, 1]
        albedo: Unshaded colour, not premultiplied. [V, R, R, 3] in [0, 1]

    Returns:
        {head: [V, answers]}
    """
    judge = judge or load()
    parts = []
    for grey in GREYS:
        pictures = albedo * opacity[..., None] + grey * (1 - opacity[..., None])
        parts.append(judge(resize(pictures.permute(0, 3, 1, 2))))
    return {head: torch.stack([part[head] for part in parts]).mean(0) for head in HEADS}


def resize(pictures: Tensor) -> Tensor:
    """To the size of the judge. [B, 3, R, R] -> [B, 3, SIZE, SIZE]"""
    if pictures.shape[-1] == SIZE:
        return pictures
    return F.interpolate(pictures, (SIZE, SIZE), mode="bilinear", antialias=True, align_corners=False)
