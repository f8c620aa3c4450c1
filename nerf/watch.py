"""Notices a run that goes wrong and says what to do about it. Plain numbers in, a verdict out; imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

FLAT_LOOKS = 10  # looks in a row with an empty or a full picture before it is said
EMPTY, FULL = 1e-3, 1 - 1e-3  # mean opacity
ADVICE = (
    "try another --seed, a lower --lr or --guidance_scale, --t_range 0.02 0.98, "
    "or without --fp16 (--guidance toybox shows whether it is the diffusion model)"
)


class Diverged(ArithmeticError):
    """The run cannot go on; the message says what to try."""


class Verdict(Enum):
    FINE = "fine"
    STEADY = "steady"  # the guidance in float32, where it was not
    RESTORE = "restore"  # the last checkpoint, and half the learning rate
    STOP = "stop"


@dataclass
class Watch:
    """Looks at the figures of a run every few steps and remembers what was done about them.

    A view whose gradient is not finite changes nothing (guidance/diffusion.py): some are harmless. Weights that are
    not finite, or nothing but such views from one look to the next, are not.
    """

    steadied: bool = False
    restored: bool = False
    flat: int = 0  # looks in a row with an empty or a full picture

    def judge(self, skipped: float, finite: bool) -> Verdict:
        """
        Args:
            skipped: Share of the views since the last look whose gradient was not finite.
            finite: Whether all weights are.
        """
        if finite and skipped == 0:
            return Verdict.FINE
        if finite and skipped < 1:
            first, self.steadied = not self.steadied, True
            return Verdict.STEADY if first else Verdict.FINE
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
