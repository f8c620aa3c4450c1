"""Frequency encoding in plain torch: the oracle of the kernels, and what serves without a compiler."""

from __future__ import annotations

import torch
from torch import Tensor


def freq_encode(x: Tensor, degree: int) -> Tensor:
    """freqencoder.freq_encode for any float dtype. [N, D] -> [N, D + 2 D degree]"""
    octaves = [2.0**f * x for f in range(degree)]
    return torch.cat([x, *(wave for octave in octaves for wave in (octave.sin(), octave.cos()))], dim=-1)
