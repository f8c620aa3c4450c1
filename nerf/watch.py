"""Notices a run that goes wrong and says what to do about it. Numbers in, a verdict out; imports no torch."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

LOST_STEPS = 10  # in a row: the run cannot go on
FLAT_LOOKS = 10  # looks in a row with an empty or a full picture before it is said
EMPTY, FULL = 1e-3, 1 - 1e-3  # mean opacity
ADVICE = (
    "try another --seed, a lower --lr or --guidance_scale, or --t_range 0.02 0.98 "
    "(--guidance toybox shows whether it is the diffusion model)"
)
LESS_RENDERED = "smaller --w and --h, --batch_size 1 or --max_steps 512"
LESS_GUIDED = "--batch_size 1 or another --guidance_device"


class Stopped(Exception):
    """The run cannot go on; the message says what to try."""


class Diverged(Stopped):
    """Its figures are of no use."""


class OutOfMemory(Stopped):
    """With nothing left to give up."""


# The words of allocators, of CUDA, and of cuBLAS, cuDNN and tiny-cuda-nn; cuDNN, with no memory for any of its engines,
# says that it finds none.
SHORTAGE = re.compile(r"(?i:out.of.memory)|allocate memory|ALLOC(ATION)?_FAILED|unable to find an engine")
# Of a compiled operator of this repository: the stable interface to torch keeps none of torch's own words.
OF_OPERATOR = re.compile(r"aten::(new_empty|new_zeros|contiguous|clone|to)\b.*API call failed", re.DOTALL)


def lacks_memory(error: Exception) -> bool:
    """Whether an error says that memory ran out, be it a GPU's or the ordinary one. Few are an OutOfMemoryError."""
    if not isinstance(error, RuntimeError):  # which torch's are
        return isinstance(error, MemoryError)
    return any(words.search(str(error)) for words in (SHORTAGE, OF_OPERATOR))


def concerns(error: Exception, device: Any, rendered_on: Any) -> bool:
    """Whether an error about memory is about this torch.device; also where it does not say whose memory it was.

    torch's says so in its text: "... GPU 1 has a total capacity of ...", "Allocation on device 1 ...". Compiled
    operators do not, but only the renderer has some.
    """
    if OF_OPERATOR.search(str(error)):
        return device == rendered_on
    named = re.search(r"\b(?:GPU|device) (\d+)", str(error))
    return named is None or (device.type, device.index or 0) == ("cuda", int(named[1]))


class Verdict(Enum):
    FINE = "fine"
    STEADY = "steady"  # the guidance in float32, where it was not
    RESTORE = "restore"  # the last checkpoint, and half the learning rate
    STOP = "stop"


@dataclass
class Tally:
    """Counts, from one look at a run to the next, what changed nothing. Of 0-d tensors only `read` waits for them."""

    shares: Any = 0.0  # sum over the steps since the last look
    steps: int = 0  # since the last look
    row: Any = 0  # steps in a row, up to now, that changed nothing at all

    def add(self, share: Any) -> None:
        """Take in a step. share: of its views that changed nothing."""
        self.shares, self.steps = self.shares + share, self.steps + 1
        self.row = (self.row + 1) * (share == 1)

    def read(self) -> tuple[float, int]:
        """The share of the views since the last look, and `row`."""
        share, self.shares, self.steps = float(self.shares) / self.steps, 0.0, 0
        return share, int(self.row)


@dataclass
class Watch:
    """Looks at the figures of a run every few steps and remembers what was done about them.

    A view whose gradient is not finite changes nothing (guidance/diffusion.py), and neither does such a step
    (nerf/optim.py): some are harmless. Many steps in a row that float32 does not save are not, nor are weights that
    are not finite.
    """

    steadied: bool = False
    restored: bool = False
    flat: int = 0  # looks in a row with an empty or a full picture

    def judge(self, skipped: float, row: int, finite: bool) -> Verdict:
        """
        Args:
            skipped: Share of the views since the last look that changed nothing, for a gradient was not finite.
            row: Steps in a row up to now that changed nothing, since the last verdict that was not FINE.
            finite: Whether all weights are.
        """
        if finite and skipped > 0 and not self.steadied:
            self.steadied = True
            return Verdict.STEADY
        if finite and row < LOST_STEPS:
            return Verdict.FINE
        first, self.restored = not self.restored, True
        return Verdict.RESTORE if first else Verdict.STOP

    def opacity(self, values: Mapping[str, float]) -> str:
        """A line about pictures that stay empty or full, once; else ""."""
        mean = values.get("opacity_mean", math.nan)
        side = "empty" if mean < EMPTY else "full" if mean > FULL else ""
        self.flat = self.flat + 1 if side else 0
        if self.flat != FLAT_LOOKS:
            return ""
        remedy = "--lambda_opacity 0, a larger --blob_density" if side == "empty" else "a larger --lambda_opacity"
        return f"the pictures have been {side} for a while: nothing comes of that; try another --seed, {remedy}"
