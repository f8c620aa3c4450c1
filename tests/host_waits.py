"""Operators that make the host wait for a GPU, counted where there is none: their results decide what comes next."""

from __future__ import annotations

from collections import Counter

import torch
from torch.utils._python_dispatch import TorchDispatchMode

READS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2", "unique_dim", "unique_consecutive")


class HostWaits(TorchDispatchMode):
    """found: how often each operator ran whose result, or the size of it, the host has to know."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.__name__.split(".")[0]
        masks = name.startswith("index") and any(
            isinstance(index, torch.Tensor) and index.dtype == torch.bool for index in _listed(args)
        )
        if name in READS or masks:
            self.found[name] += 1
        return func(*args, **(kwargs or {}))


def _listed(args):
    return args[1] if len(args) > 1 and isinstance(args[1], (list, tuple)) else ()
