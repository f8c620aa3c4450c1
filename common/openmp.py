"""How OpenMP's threads wait for the next operator. Imports nothing: torch reads it when it is imported."""

from __future__ import annotations

import os


def wait_briefly() -> None:
    """Let threads spin for 10 us, then sleep; to be called before torch is imported. What the user has set stays.

    Asleep, they wake too late for operators of 20 us: a step of a frog takes 73 ms on two cores instead of 55. Spinning
    until there is work (3 ms, GNU's default), they keep a core from whoever has some: two runs side by side took 228 ms
    a step, and 113 with 10 us (89 asleep).
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "passive"  # asleep
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # GNU's: after 10 us
