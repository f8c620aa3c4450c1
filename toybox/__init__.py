"""Toybox: a small world whose 3D truth is known, and the diffusion prior trained on its pictures."""
