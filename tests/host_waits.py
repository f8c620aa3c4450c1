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
        if is_read(name, args):
            self.found[name] += 1
        return func(*args, **(kwargs or {}))


def is_read(name, args) -> bool:
    """Whether the host has to know the result of this operator, or the size of it."""
    listed = args[1] if name.startswith("index") and len(args) > 1 and isinstance(args[1], (list, tuple)) else ()
    return name in READS or any(isinstance(index, torch.Tensor) and index.dtype == torch.bool for index in listed)
