"""Frequency (positional) encoding: the input and the sines and cosines of its octaves."""

from .frequency import FreqEncoder, freq_encode

__all__ = ["FreqEncoder", "freq_encode"]
