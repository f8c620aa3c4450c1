"""Where cameras stand, and the rays through their pixels.

Axes: y is up, azimuth 0 is the front (camera on +z), azimuth 90 puts the camera on +x. `polar` is the angle from +y,
elevation = 90 - polar. Cameras have OpenGL axes (x right, y up, looking along -z), square pixels and the principal
point in the middle of the picture; row 0 is the top row. Angles are degrees, lengths scene units.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from nerf.types import Cameras, Rays, Views

Range = tuple[float, float]


@dataclass(frozen=True)
class ViewRanges:
    """What `sample_views` draws from; each range is (min, max) and may be a single value.

    Raises:
        ValueError: A range is reversed or leaves its domain, named as on the command line.
    """

    radius: Range = (3.0, 3.5)  # --radius_range, scene units
    polar: Range = (45.0, 105.0)  # --theta_range, 0 is straight above, 90 the horizon
    azimuth: Range = (-180.0, 180.0)  # --phi_range
    fovy: Range = (10.0, 30.0)  # --fovy_range, vertical field of view
    uniform_sphere_rate: float = 0.0  # share of views spread evenly over the upper half of the sphere instead
    jitter_pose: bool = False  # the three below apply only with it
    jitter_center: float = 0.2  # width of the box the camera is moved within
    jitter_target: float = 0.2  # standard deviation of the point looked at
    jitter_up: float = 0.02  # standard deviation of the up vector

    def __post_init__(self):
        _check_range("--radius_range", self.radius, "0 < min <= max", self.radius[0] > 0)
        _check_range("--theta_range", self.polar, "0 <= min <= max <= 180", self.polar[0] >= 0 and self.polar[1] <= 180)
        _check_range("--phi_range", self.azimuth, "min <= max", True)
        _check_range("--fovy_range", self.fovy, "0 < min <= max < 180", self.fovy[0] > 0 and self.fovy[1] < 180)
        if not 0 <= self.uniform_sphere_rate <= 1:
            raise ValueError(f"--uniform_sphere_rate needs a share in [0, 1], got {self.uniform_sphere_rate}")
        for name in ("jitter_center", "jitter_target", "jitter_up"):
            if getattr(self, name) < 0:
                raise ValueError(f"--{name} needs a length >= 0, got {getattr(self, name)}")


def _check_range(option: str, values: Range, needs: str, inside: bool) -> None:
    if not (inside and values[0] <= values[1] and all(map(math.isfinite, values))):
        raise ValueError(f"{option} needs {needs}, got {values[0]} {values[1]}")


def sample_views(
    ranges: ViewRanges,
    batch: int,
    height: int,
    width: int,
    *,
    generator: torch.Generator,
) -> tuple[Views, Cameras]:
    """Draw `batch` random cameras around the origin.

    Radius, polar angle, azimuth and fovy are uniform in their ranges, each camera on its own. With probability
    `uniform_sphere_rate` the two angles come from the upper half of the sphere instead, uniform by area (nobody
    looks up from below the ground). `jitter_pose` then moves the camera, the point it looks at and its up vector.

    Args:
        generator: Source of every draw.

    Returns:
        The views as the cameras really stand (after the jitter), angles in degrees, [B]; and the cameras; on the device
        of the generator.
    """
    options = {"generator": generator, "device": generator.device}
    draws = torch.rand(7, batch, **options)

    def uniform(index: int, limits: Range) -> Tensor:
        return limits[0] + (limits[1] - limits[0]) * draws[index]

    radius, fovy = uniform(0, ranges.radius), uniform(3, ranges.fovy)
    # Archimedes: the height of a uniform point on a sphere is uniform.
    on_sphere = draws[4] < ranges.uniform_sphere_rate
    polar = torch.where(on_sphere, torch.rad2deg(torch.acos(draws[5])), uniform(1, ranges.polar))
    azimuth = torch.where(on_sphere, 360 * draws[6] - 180, uniform(2, ranges.azimuth))

    views = _views(azimuth, 90 - polar, radius)
    positions, up = view_positions(views), _north(views)
    targets = torch.zeros_like(positions)
    if ranges.jitter_pose:
        positions = positions + ranges.jitter_center * (torch.rand(batch, 3, **options) - 0.5)
        targets = ranges.jitter_target * torch.randn(batch, 3, **options)
        up = up + ranges.jitter_up * torch.randn(batch, 3, **options)
        views = views_from_positions(positions)
    return views, Cameras(look_at(positions, targets, up), fovy, height, width)


def orbit_views(
    count: int,
    *,
    radius: float = 3.2,
    elevation: float = 0.0,
    fovy: float = 20.0,
    height: int = 256,
    width: int = 256,
    device: torch.device | str = "cpu",
) -> tuple[Views, Cameras]:
    """`count` cameras once around the object, from the front towards +x, all at one elevation."""
    azimuth = torch.arange(count, device=device, dtype=torch.float32) * (360 / max(count, 1))
    views = _views(azimuth, torch.full_like(azimuth, elevation), torch.full_like(azimuth, radius))
    return views, cameras_from_views(views, fovy, height, width)


def six_views(
    *,
    radius: float = 3.2,
    fovy: float = 20.0,
    height: int = 256,
    width: int = 256,
    device: torch.device | str = "cpu",
) -> tuple[Views, Cameras]:
    """Front, +x side, back, -x side, top, bottom."""
    azimuth = torch.tensor([0.0, 90.0, 180.0, 270.0, 0.0, 0.0], device=device)
    elevation = torch.tensor([0.0, 0.0, 0.0, 0.0, 90.0, -90.0], device=device)
    views = _views(azimuth, elevation, torch.full_like(azimuth, radius))
    return views, cameras_from_views(views, fovy, height, width)


def cameras_from_views(views: Views, fovy: Tensor | float, height: int, width: int) -> Cameras:
    """Cameras at `views` that look at the origin, upright. `fovy` in degrees: one for all, or [B]."""
    positions = view_positions(views)
    fovy = torch.as_tensor(fovy, dtype=positions.dtype, device=positions.device).expand(len(positions))
    return Cameras(look_at(positions, torch.zeros_like(positions), _north(views)), fovy, height, width)


def view_positions(views: Views) -> Tensor:
    """Camera positions, scene units. [B, 3]"""
    azimuth, elevation = torch.deg2rad(views.azimuth), torch.deg2rad(views.elevation)
    flat = elevation.cos()
    direction = torch.stack([flat * azimuth.sin(), elevation.sin(), flat * azimuth.cos()], -1)
    return views.radius[:, None] * direction


def views_from_positions(positions: Tensor) -> Views:
    """The views of cameras at `positions` [B, 3], scene units; straight above or below, azimuth is 0."""
    x, y, z = positions.unbind(-1)
    azimuth, elevation = torch.atan2(x, z), torch.atan2(y, torch.hypot(x, z))
    return _views(torch.rad2deg(azimuth), torch.rad2deg(elevation), positions.norm(dim=-1))


def look_at(positions: Tensor, targets: Tensor, up: Tensor) -> Tensor:
    """Camera-to-world matrices of cameras at `positions` that look at `targets`. [B, 3] each -> [B, 4, 4]

    Where `up` lies along the view, the axis least along it takes its place, so that the matrix is always a rigid one.
    """
    backward = normalize(positions - targets, dim=-1)
    right = torch.linalg.cross(up, backward, dim=-1)
    spare = torch.eye(3, dtype=up.dtype, device=up.device)[backward.abs().argmin(-1)]
    parallel = right.norm(dim=-1, keepdim=True) <= 1e-5 * up.norm(dim=-1, keepdim=True)
    right = normalize(torch.where(parallel, torch.linalg.cross(spare, backward, dim=-1), right), dim=-1)
    c2w = torch.zeros(len(positions), 4, 4, dtype=positions.dtype, device=positions.device)
    c2w[:, :3] = torch.stack([right, torch.linalg.cross(backward, right, dim=-1), backward, positions], -1)
    c2w[:, 3, 3] = 1
    return c2w


def generate_rays(cameras: Cameras, aabb: Tensor | Sequence[float], min_near: float = 0.01) -> Rays:
    """Rays through the pixel centres, with the part of each that lies in the box.

    Args:
        aabb: Lower then upper corner of the box, scene units. [6]
        min_near: Nothing nearer to the camera than this is seen, scene units.

    Returns:
        N = B*H*W rays, view by view, row by row from the top. A ray that misses has near = far = `min_near`.
    """
    c2w, (height, width) = cameras.c2w, (cameras.height, cameras.width)
    options = {"dtype": c2w.dtype, "device": c2w.device}
    y = (torch.arange(height, **options) + 0.5 - height / 2) * (-2 / height)
    x = (torch.arange(width, **options) + 0.5 - width / 2) * (2 / height)  # square pixels: one scale for both
    tangent = torch.tan(torch.deg2rad(cameras.fovy) / 2)[:, None, None]
    y, x = y[:, None].expand(height, width) * tangent, x.expand(height, width) * tangent
    local = torch.stack([x, y, -torch.ones_like(x)], -1).flatten(1, 2)
    directions = normalize(local @ c2w[:, :3, :3].mT, dim=-1).reshape(-1, 3)
    origins = c2w[:, None, :3, 3].expand(-1, height * width, -1).reshape(-1, 3)
    near, far = _slabs(origins, directions, torch.as_tensor(aabb, **options), min_near)
    return Rays(origins, directions, near, far)


def _slabs(origins: Tensor, directions: Tensor, aabb: Tensor, min_near: float) -> tuple[Tensor, Tensor]:
    low, high = (aabb[:3] - origins) / directions, (aabb[3:] - origins) / directions
    # fmin and fmax: a ray inside a face of the box divides 0 by 0.
    near = torch.fmin(low, high).amax(-1).clamp(min=min_near)
    far = torch.fmax(low, high).amin(-1)
    miss = far <= near
    return near.masked_fill(miss, min_near), far.masked_fill(miss, min_near)


def _views(azimuth: Tensor, elevation: Tensor, radius: Tensor) -> Views:
    return Views(torch.remainder(azimuth + 180, 360) - 180, elevation, radius)


def _north(views: Views) -> Tensor:
    """The unit tangent towards the upper pole: upright like +y, and well defined at the poles too. [B, 3]"""
    azimuth, elevation = torch.deg2rad(views.azimuth), torch.deg2rad(views.elevation)
    steep = elevation.sin()
    return torch.stack([-steep * azimuth.sin(), elevation.cos(), -steep * azimuth.cos()], -1)
