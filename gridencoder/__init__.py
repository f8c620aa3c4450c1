"""Multiresolution hash and tiled grid encoding (Instant-NGP, arXiv:2201.05989)."""

from gridencoder.encoder import GridEncoder
from gridencoder.grid import grid_encode, grid_total_variation_, grid_weight_decay_

__all__ = ["GridEncoder", "grid_encode", "grid_total_variation_", "grid_weight_decay_"]
