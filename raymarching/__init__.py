"""Packed ray marching through an occupancy bitfield, and front-to-back compositing.

Letters in shapes: N rays, M samples, C cascades (or colour channels), H cells along an edge of a cascade.
"""

from raymarching.composite import composite_rays, composite_rays_train
from raymarching.grid import cascade_half_width, flatten_rays, morton3D, morton3D_invert, packbits
from raymarching.march import march_rays, march_rays_train, near_far_from_aabb, sph_from_ray

__all__ = [
    "cascade_half_width",
    "composite_rays",
    "composite_rays_train",
    "flatten_rays",
    "march_rays",
    "march_rays_train",
    "morton3D",
    "morton3D_invert",
    "near_far_from_aabb",
    "packbits",
    "sph_from_ray",
]
