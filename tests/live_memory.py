"""Bytes of tensors that are alive at the same time, counted while operators run; fake tensors will do."""

from __future__ import annotations

import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class LiveMemory(TorchDispatchMode):
    """peak: of what operators made within it, in bytes. Storages count once and until the last tensor of them dies."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.seen: weakref.WeakSet = weakref.WeakSet()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        for tensor in tree_iter((args, kwargs)):  # made before, or counted already
            if isinstance(tensor, torch.Tensor):
                self.seen.add(tensor.untyped_storage())
        result = func(*args, **(kwargs or {}))
        for tensor in tree_iter(result):
            if isinstance(tensor, torch.Tensor) and (storage := tensor.untyped_storage()) not in self.seen:
                self.seen.add(storage)
                self.live += storage.nbytes()
                self.peak = max(self.peak, self.live)
                weakref.finalize(storage, self._gone, storage.nbytes())
        return result

    def _gone(self, count: int) -> None:
        self.live -= count
