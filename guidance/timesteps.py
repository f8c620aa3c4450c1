"""In which order a run visits the timesteps of a diffusion model."""

from __future__ import annotations

import torch
from torch import Tensor

COARSE, FINE = (800.0, 300.0), (500.0, 100.0)  # where the weight falls off towards more and less noise, and how widely


def dreamtime(alphas_cumprod: Tensor, t_range: tuple[float, float], progress: float) -> int:
    """The timestep at a share of the run, falling from most noise to least (DreamTime, arXiv:2306.12422).

    The run stays at each timestep in proportion to sqrt((1 - alpha_bar) / alpha_bar), times a bell that falls off above
    timestep 800 and below 500 of 1000: neither long where nothing can be seen nor long where nothing is left to decide.

    Args:
        alphas_cumprod: In ordinary memory, for a GPU would be waited for. [T]
        t_range: Lowest and highest timestep that are visited, as shares of T.
        progress: In [0, 1].
    """
    last = len(alphas_cumprod) - 1
    low, high = (min(round(share * (last + 1)), last) for share in t_range)
    t = torch.arange(low, high + 1, dtype=torch.float64)
    alphas = alphas_cumprod[low : high + 1].double()
    thousandths = 1000 * t / (last + 1)
    bell = torch.ones_like(t)
    for beyond, (middle, width) in ((thousandths > COARSE[0], COARSE), (thousandths < FINE[0], FINE)):
        bell = torch.where(beyond, (-((thousandths - middle) ** 2) / (2 * width**2)).exp(), bell)
    weight = bell * ((1 - alphas) / alphas.clamp(min=1e-8)).sqrt()
    done = weight.flip(0).cumsum(0) / weight.sum()  # share of the run that is over once a timestep has been left
    return int(high - torch.searchsorted(done, min(progress, 1.0) * (1 - 1e-12)).clamp(max=high - low))
