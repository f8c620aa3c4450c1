"""Adan's update of parameters in one pass over memory (arXiv:2208.06677)."""

from .update import adan_update

__all__ = ["adan_update"]
