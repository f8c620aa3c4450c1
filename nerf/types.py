"""What flows between the parts of nerf/: frozen dataclasses, channels-last.

Letters in shapes: B views, H W pixels, N rays, M samples, V vertices, F faces.
Axes: y is up, azimuth 0 looks at the front of the object from +z, azimuth 90 from +x.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Views:
    """Where cameras stand on a sphere around the origin, absolute (never relative to a default view)."""

    azimuth: Tensor  # [B] degrees in [-180, 180), 0 is the front, 90 is the object's left (+x)
    elevation: Tensor  # [B] degrees in [-90, 90], 0 is the horizon, 90 is straight above
    radius: Tensor  # [B] scene units


@dataclass(frozen=True)
class Cameras:
    """Pinhole cameras with square pixels and the principal point in the middle of the picture."""

    c2w: Tensor  # [B, 4, 4] camera to world, OpenGL axes: x right, y up, the camera looks along -z
    fovy: Tensor  # [B] vertical field of view in degrees
    height: int  # pixels
    width: int  # pixels


@dataclass(frozen=True)
class Rays:
    origins: Tensor  # [N, 3] scene units
    directions: Tensor  # [N, 3] unit length
    near: Tensor  # [N] distance at which the ray enters the box, scene units
    far: Tensor  # [N] distance at which it leaves; far <= near where it misses


@dataclass(frozen=True)
class RaySamples:
    """Samples of all rays, one after the other (packed)."""

    positions: Tensor  # [M, 3] scene units
    directions: Tensor  # [M, 3] unit direction of the ray the sample lies on
    ts: Tensor  # [M, 2] distance of the sample from the origin, and its length, scene units
    packed_info: Tensor  # [N, 2] int32, first sample and number of samples of each ray


@dataclass(frozen=True)
class Shading:
    """How albedo and normals become colour (DreamFusion, arXiv:2209.14988, section 3.2)."""

    mode: str = "albedo"  # albedo | lambertian | textureless | normal
    ambient: float = 1.0  # share of ambient light in [0, 1]
    light: Tensor | None = None  # [B, 3] unit direction towards the light of each view; None: from the camera


@dataclass(frozen=True)
class RenderOutput:
    """Pictures, and what the losses need of the samples behind them."""

    rgb: Tensor  # [B, H, W, 3] in [0, 1], blended with the background
    opacity: Tensor  # [B, H, W, 1] in [0, 1]
    depth: Tensor  # [B, H, W, 1] expected distance, scene units, 0 where nothing was hit
    normal: Tensor | None = None  # [B, H, W, 3] world-space, premultiplied by opacity; None: not made
    samples: dict[str, Tensor] = field(default_factory=dict)  # weights [M], positions, directions, normals [M, 3], ...


@dataclass(frozen=True)
class Mesh:
    """A triangle mesh, counter-clockwise seen from outside."""

    vertices: Tensor  # [V, 3] float32, scene units
    faces: Tensor  # [F, 3] int32
    uvs: Tensor | None = None  # [F, 3, 2] in [0, 1], per corner, v = 0 at the bottom of the texture
    texture: Tensor | None = None  # [H, W, 3] in [0, 1], row 0 at the top (v = 1)
