"""Room for what only a GPU can count."""

from __future__ import annotations

import math
from collections import deque

import torch
from torch import Tensor

SLACK = 1.1  # rows for each that was needed at most lately
REMEMBERED = 32  # counts: with views of a third to three times the size, one step in 300 is done again
GRAIN = 1 << 12  # rows come in multiples of this, so that the allocator meets the same sizes again


class Room:
    """How many rows to make for results whose size only the GPU knows, so that the host need not wait for it.

    A little more than was needed lately. Whether that was enough, the host asks when it has sent the rest of its work:
    the answer has been copied long before the GPU has done it. Where it was not, that work was in vain.
    """

    def __init__(self) -> None:
        self._needed: deque[int] = deque(maxlen=REMEMBERED)
        self._open: list[tuple[Tensor, torch.cuda.Event, int | None]] = []

    def rows(self) -> int | None:
        """How many to make; None: nothing is known yet, and they have to be counted."""
        if not self._needed:
            return None
        return GRAIN * max(1, math.ceil(SLACK * max(self._needed) / GRAIN))

    def need(self, count: Tensor, rows: int | None) -> None:
        """Note what was needed, a 0-d tensor on the GPU, and how many rows there were: as many, where None."""
        on_host, copied = count.to("cpu", non_blocking=True), torch.cuda.Event()
        copied.record(torch.cuda.current_stream(count.device))
        self._open.append((on_host, copied, rows))

    def was_enough(self) -> bool:
        """Whether there were rows for all that was needed since the last call."""
        enough = True
        for on_host, copied, rows in self._open:
            copied.synchronize()
            needed = int(on_host)
            self._needed.append(needed)
            enough = enough and (rows is None or needed <= rows)
        self._open.clear()
        return enough
