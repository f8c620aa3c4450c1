"""Real spherical harmonics of directions, degree 1..8."""

from .harmonics import SHEncoder, sh_encode

__all__ = ["SHEncoder", "sh_encode"]
