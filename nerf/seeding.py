"""Random numbers that follow from (seed, step) alone, so that a resumed run draws what an unbroken one would."""

from __future__ import annotations

import zlib

import torch

_MASK = 0xFFFFFFFF


def step_generator(seed: int, step: int, device: torch.device | str = "cpu", *, stream: str = "") -> torch.Generator:
    """A new generator for one step of a run.

    Args:
        seed: The seed of the run.
        step: The step, counted from 0. Two steps of a run never share their numbers.
        stream: Separates the consumers of a step: what one draws never shifts what another gets.
    """
    # torch seeds its CPU generator with 32 bits. Each line is a bijection of them, so that steps cannot collide.
    state = (_mix(_mix(seed & _MASK) ^ (seed >> 32 & _MASK)) ^ zlib.crc32(stream.encode())) & _MASK
    state = _mix((_mix(state) + step) & _MASK)
    return torch.Generator(device=device).manual_seed(state)


def _mix(x: int) -> int:
    """A bijection of 32 bits in which every bit depends on every other (the finaliser of MurmurHash3)."""
    x = (x ^ x >> 16) * 0x85EBCA6B & _MASK
    x = (x ^ x >> 13) * 0xC2B2AE35 & _MASK
    return x ^ x >> 16
