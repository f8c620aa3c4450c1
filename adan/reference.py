"""Adan's update in plain torch, for every device and dtype: what the compiled one is compared with."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def adan_update(
    p: Tensor,
    grad: Tensor,
    average: Tensor,
    difference: Tensor,
    square: Tensor,
    previous: Tensor,
    *,
    step: int,
    clip: Tensor | None,
    lr: float,
    betas: tuple[float, float, float],
    eps: float,
    weight_decay: float,
) -> None:
    """See `adan.adan_update`."""
    beta1, beta2, beta3 = betas
    if clip is not None and not clip.isfinite():  # a GPU is waited for here, but not in the compiled update
        return
    if clip is not None:
        grad = grad * clip
    change = grad - previous
    previous.copy_(grad)
    average.lerp_(grad, 1 - beta1)
    difference.lerp_(change, 1 - beta2)
    ahead = change.mul_(beta2).add_(grad)  # the gradient expected one step ahead
    square.mul_(beta3).addcmul_(ahead, ahead, value=1 - beta3)
    root = torch.sqrt(square).div_(math.sqrt(1 - beta3**step)).add_(eps)
    p.addcdiv_(average, root, value=-lr / (1 - beta1**step))
    p.addcdiv_(difference, root, value=-lr * beta2 / (1 - beta2**step))
    if weight_decay:
        p.div_(1 + lr * weight_decay)
