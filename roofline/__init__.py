"""What this machine can do at most: multiply-adds, memory, random rows. Only scripts/bench.py asks."""

from roofline.probe import Roofline, probe

__all__ = ["Roofline", "probe"]
