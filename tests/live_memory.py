"""Bytes of tensors that are alive at the same time, counted while operators run; fake tensors will do."""

from __future__ import annotations

import weakref
from collections.abc import Iterator

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class LiveMemory(TorchDispatchMode):
    """Bytes; a storage counts once.

    live, peak: of what operators made within it, until the last tensor of it dies; now, and at most.
    read: of what was made before and operators took within it: weights, for one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = self.read = 0
        self.seen: weakref.WeakSet = weakref.WeakSet()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        for storage in self._new((args, kwargs)):
            self.read += storage.nbytes()
        result = func(*args, **(kwargs or {}))
        for storage in self._new(result):
            self.live += storage.nbytes()
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._gone, storage.nbytes())
        return result

    def _new(self, tree: object) -> Iterator[torch.UntypedStorage]:
        for tensor in tree_iter(tree):
            if isinstance(tensor, torch.Tensor) and (storage := tensor.untyped_storage()) not in self.seen:
                self.seen.add(storage)
                yield storage

    def _gone(self, count: int) -> None:
        self.live -= count
