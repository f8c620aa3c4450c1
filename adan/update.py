"""Which parameters the compiled update takes."""

from __future__ import annotations

import torch
from torch import Tensor

import extension

from . import reference


def adan_update(
    p: Tensor,
    grad: Tensor,
    average: Tensor,
    difference: Tensor,
    square: Tensor,
    previous: Tensor,
    *,
    step: int,
    clip: Tensor | None = None,
    lr: float,
    betas: tuple[float, float, float] = (0.98, 0.92, 0.99),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> None:
    """One step of Adan (arXiv:2208.06677, algorithm 1, bias-corrected) in place of a parameter and its averages.

    With g the gradient times `clip` and c = g - previous: average and difference follow g and c, square follows
    (g + beta2 c)^2, p moves by -lr (average + beta2 difference) / (sqrt(square) + eps), each divided by
    1 - beta^step, then is divided by 1 + lr * weight_decay; previous becomes g.

    The compiled update reads and writes each number once (contiguous float32 on one device); anything else takes the
    reference. The same result whatever the number of threads.

    Args:
        p, grad: The parameter and its gradient, which stays as it is. [...]
        average, difference, square, previous: The state, shaped like p.
        step: Counts from 1.
        clip: By which the gradient is multiplied, 0-d; None: 1. Not finite: nothing changes.

    Raises:
        ValueError: the shapes differ, or `step` is below 1.
    """
    state = (average, difference, square, previous)
    if any(tensor.shape != p.shape for tensor in (grad, *state)):
        raise ValueError(f"adan_update needs tensors shaped like the parameter, {list(p.shape)}")
    if step < 1:
        raise ValueError(f"adan_update counts steps from 1, got {step}")
    alike = all(t.dtype == torch.float32 and t.device == p.device for t in (p, grad, *state))
    if alike and all(t.is_contiguous() for t in (p, *state)) and extension.serves("adan", p):
        scale = None if clip is None else clip.to(p)
        torch.ops.adan.adan_update(p, grad, *state, scale, step, lr, *betas, eps, weight_decay)
        return
    options = dict(step=step, clip=clip, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
    reference.adan_update(p, grad, *state, **options)
