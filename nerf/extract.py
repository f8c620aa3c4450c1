"""From a density field to its surface: a coarse grid first, then only the cells that can hold surface.

The surface is where the light from outside ends, and not a level set of the density: a distilled field is a crust full
of pores around an interior that no picture has ever shown, and its level sets have a wall on every side of all that.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from nerf.marching_cubes import marching_cubes
from nerf.types import Mesh

COARSE = 64  # cells per axis of the first pass; a part thinner than a cell still shows in the cells next to it
MARGIN = 0.1  # share of the threshold from which on a coarse cell is looked into
FAINT = 0.05  # opacity below which nothing can be recognised in a picture
DIRECTIONS = [d for d in itertools.product((-1, 0, 1), repeat=3) if any(d)]  # to the 26 neighbours


def seen_by_rays(volume: np.ndarray, spacing: float) -> np.ndarray:
    """Which parallel rays along the three axes are at least half as opaque as the most opaque one. [3 n^2] bool

    Args:
        volume: Density, >= 0, in 1/scene unit. [n, n, n]
        spacing: Distance of the samples in scene units.

    Raises:
        ValueError: The scene is empty; the line holds density min, mean and max.
    """
    opacity = 1 - np.exp(-_along_axes(volume, lambda v, axis: v.sum(axis, dtype=np.float64)) * spacing)
    if opacity.max() < FAINT:
        low, mean, high = (float(f(volume)) for f in (np.min, np.mean, np.max))
        raise ValueError(
            f"the scene is empty: density min/mean/max = {low:.3g}/{mean:.3g}/{high:.3g}, no ray is more than "
            f"{opacity.max():.1%} opaque; train longer, or start anew with another --seed or a lower --lambda_entropy"
        )
    return opacity > 0.5 * opacity.max()


def find_level(field: np.ndarray, seen: np.ndarray, levels: np.ndarray) -> float:
    """The level of a field whose level set has the silhouettes that rays see; no scale is assumed.

    A surface is seen where the largest value on a ray exceeds its level. The level with the fewest rays that
    disagree is taken, in the middle where many do equally well. [n, n, n], [3 n^2] bool, [K] -> one of [K]
    """
    peak = _along_axes(field, np.max)
    disagree = np.array([np.count_nonzero((peak > level) != seen) for level in levels])
    best = np.flatnonzero(disagree <= disagree.min() + 2e-3 * np.count_nonzero(seen))
    return float(levels[round(best.mean())])


def find_threshold(volume: np.ndarray, spacing: float) -> float:
    """The density whose level set has the silhouettes that rays see. As `seen_by_rays`, errors included."""
    seen, high = seen_by_rays(volume, spacing), float(volume.max())
    # 1e-4: four decades below the densest point; 0.9: some of the object always remains.
    return find_level(volume, seen, np.geomspace(1e-4 * high, 0.9 * high, 256))


def _along_axes(volume: np.ndarray, reduce: Callable[[np.ndarray, int], np.ndarray]) -> np.ndarray:
    return np.concatenate([reduce(volume, axis).ravel() for axis in range(3)])


def exposure(volume: np.ndarray, spacing: float) -> np.ndarray:
    """How much light reaches each point from outside: its transmittance, mean over the directions to 26 neighbours.

    About one half above a surface and zero under it; little in pores and narrow gaps, none in closed cavities.

    Args:
        volume: Density, >= 0, in 1/scene unit. [n, n, n]
        spacing: Distance of the samples in scene units.

    Returns: [n, n, n] float32 in [0, 1]
    """
    total = np.zeros(volume.shape, dtype=np.float32)
    for direction in DIRECTIONS:
        axis = next(i for i in range(3) if direction[i])
        backwards = slice(None, None, direction[axis])
        density, light = (np.moveaxis(v, axis, 0)[backwards] for v in (volume, total))
        steps = direction[:axis] + direction[axis + 1 :]
        half = np.float32(0.5 * spacing * np.linalg.norm(direction))
        through, before = np.ones(density.shape[1:], dtype=np.float32), np.zeros(density.shape[1:], dtype=np.float32)
        for here, lit in zip(density, light, strict=True):  # slice by slice, away from where the light enters
            through = _moved(through, steps, 1.0) * np.exp(-half * (_moved(before, steps, 0.0) + here))
            lit += through
            before = here
    return total / np.float32(len(DIRECTIONS))


def _moved(plane: np.ndarray, steps: tuple[int, int], outside: float) -> np.ndarray:
    """A plane moved by -1, 0 or 1 along each axis; what comes in from its sides is `outside`. [n, n]"""
    if not any(steps):
        return plane
    moved = np.full_like(plane, outside)
    ends = {-1: (slice(None, -1), slice(1, None)), 0: (slice(None),) * 2, 1: (slice(1, None), slice(None, -1))}
    (to_row, row), (to_column, column) = (ends[step] for step in steps)
    moved[to_row, to_column] = plane[row, column]
    return moved


def _dilate(cells: np.ndarray) -> np.ndarray:
    """Cells and their 26 neighbours. [X, Y, Z] bool"""
    for axis in range(3):
        near = np.moveaxis(cells, axis, 0)
        grown = near.copy()
        grown[1:] |= near[:-1]
        grown[:-1] |= near[1:]
        cells = np.moveaxis(grown, 0, axis)
    return cells


def _over_corners(points: np.ndarray, combine: np.ufunc) -> np.ndarray:
    """`combine` of the eight corners of each cell. [n+1]^3 -> [n]^3"""
    for axis in range(3):
        points = np.moveaxis(points, axis, 0)
        points = np.moveaxis(combine(points[:-1], points[1:]), 0, axis)
    return points


def _points_of(cells: np.ndarray) -> np.ndarray:
    """The points of the grid of half the spacing that lie in or on the given cells. [n]^3 -> [2n+1]^3 bool"""
    for axis in range(3):
        cells = np.moveaxis(cells, axis, 0)
        points = np.zeros((2 * len(cells) + 1, *cells.shape[1:]), dtype=bool)
        points[1::2] = cells
        points[:-1:2] |= cells
        points[2::2] |= cells
        cells = np.moveaxis(points, 0, axis)
    return np.ascontiguousarray(cells)


def _upsample(volume: np.ndarray) -> np.ndarray:
    """Linear interpolation to half the spacing. [n+1]^3 -> [2n+1]^3"""
    for axis in range(3):
        volume = np.moveaxis(volume, axis, 0)
        finer = np.empty((2 * len(volume) - 1, *volume.shape[1:]), dtype=volume.dtype)
        finer[::2] = volume
        finer[1::2] = 0.5 * (volume[:-1] + volume[1:])
        volume = np.moveaxis(finer, 0, axis)
    return np.ascontiguousarray(volume)


def occupied_cells(occupancy) -> Tensor:
    """The cells of an occupancy grid that a renderer samples, in the order x, y, z, over its whole box. [H, H, H] bool

    Args:
        occupancy: Has `density_grid` in Morton order, `resolution` and `threshold()` (nerf/occupancy.py). A grid
            that has never been updated occupies everything.
    """
    from raymarching import morton3D_invert

    size = occupancy.resolution
    if not int(occupancy.updates):
        return torch.ones(size, size, size, dtype=torch.bool)
    occupied = (occupancy.density_grid[-1] > occupancy.threshold()).cpu()
    x, y, z = morton3D_invert(torch.arange(size**3, dtype=torch.int32)).long().unbind(1)
    cells = torch.zeros(size, size, size, dtype=torch.bool)
    cells[x, y, z] = occupied
    return cells


class DensityVolume:
    """Samples of a density field on a grid over [-bound, bound]^3, refined where its surface can be.

    Args:
        density_fn: Density >= 0 in 1/scene unit of points in scene units. [M, 3] -> [M]
        resolution: Cells per axis, >= 8; rounded up to a multiple of the first refinement step.
        bound: Half the side of the box in scene units.
        occupied: Cells outside of which (and of their neighbours) the field is empty, axes x, y, z over the same
            box, as the renderer's occupancy grid has them; None: the field may be anywhere. [H, H, H] bool
        device: Where `density_fn` wants its points.
        chunk: Points per call of `density_fn`.
        progress: Show a bar of the points evaluated.
    """

    def __init__(self, density_fn, *, resolution, bound, occupied=None, device="cpu", chunk=2**18, progress=True):
        if resolution < 8 or not bound > 0:
            raise ValueError(
                f"a mesh needs a resolution of at least 8 and a positive bound, got {resolution} and {bound}"
            )
        self._density_fn, self._device, self._chunk = density_fn, device, chunk
        self.bound = float(bound)
        self.stride = 1
        while resolution >= 2 * self.stride * COARSE:
            self.stride *= 2
        self.cells = -(-int(resolution) // self.stride)  # per axis, at the present stride
        self._occupied = None if occupied is None else _dilate(np.asarray(torch.as_tensor(occupied).cpu(), dtype=bool))
        self._bar = tqdm(desc="extract", unit="pt", unit_scale=True, disable=not progress, total=(self.cells + 1) ** 3)
        self.queries = 0  # points evaluated so far
        self.values = np.zeros((self.cells + 1,) * 3, dtype=np.float32)  # density
        self._known = np.zeros(self.values.shape, dtype=bool)
        self._fill(~self._known)

    @property
    def spacing(self) -> float:
        """Distance of neighbouring samples in scene units."""
        return 2 * self.bound / self.cells

    def density(self, positions: np.ndarray) -> np.ndarray:
        """The field at points in scene units, 0 outside of the occupied cells. [M, 3] -> [M] float32"""
        density = np.zeros(len(positions), dtype=np.float32)
        inside = slice(None)
        if self._occupied is not None:
            size = len(self._occupied)
            cell = ((positions + self.bound) * (size / (2 * self.bound))).astype(np.int64).clip(0, size - 1)
            inside = np.flatnonzero(self._occupied[tuple(cell.T)])
            positions = positions[inside]
        points = torch.from_numpy(np.ascontiguousarray(positions, dtype=np.float32))
        with torch.no_grad():
            parts = [self._density_fn(part.to(self._device)).float().cpu() for part in points.split(self._chunk)]
        if len(points):
            density[inside] = torch.cat(parts).numpy()
        self.queries += len(points)
        if not np.isfinite(density).all():
            raise ValueError("the density is NaN or infinite somewhere; go on from an earlier checkpoint (--ckpt PATH)")
        return density

    def _fill(self, wanted: np.ndarray) -> None:
        """Evaluate the wanted points that are not known yet."""
        index = np.flatnonzero(wanted & ~self._known)
        self._bar.total = self._bar.n + len(index)
        for part in np.array_split(index, max(1, len(index) // self._chunk)):
            at = np.stack(np.unravel_index(part, self.values.shape), axis=1)
            self.values.ravel()[part] = self.density((at * self.spacing - self.bound).clip(-self.bound, self.bound))
            self._bar.update(len(part))
        self._known |= wanted

    def refine(self, threshold: float) -> None:
        """Halve the spacing until the resolution is reached, evaluating only around the surface."""
        while self.stride > 1:
            high = _over_corners(self.values, np.maximum) > MARGIN * threshold
            low = _over_corners(self.values, np.minimum) < threshold
            cells = _dilate(high) & _dilate(low)
            known = np.zeros(tuple(2 * n - 1 for n in self.values.shape), dtype=bool)
            known[::2, ::2, ::2] = self._known
            self.values, self._known = _upsample(self.values), known
            self.cells, self.stride = 2 * self.cells, self.stride // 2
            self._fill(_points_of(cells))

    def surface(self, threshold: float) -> Mesh:
        """Where the light from outside ends, at the present spacing: the `exposure` level with the silhouettes of rays.

        `threshold` is the density to `refine` for; where it is crossed at the surface, that is the surface, to a
        hundredth of a cell.
        """
        shade = 1 - exposure(self.values, self.spacing)
        levels = np.linspace(shade.min(), shade.max(), 258)[1:-1]
        level = shade - np.float32(find_level(shade, seen_by_rays(self.values, self.spacing), levels))
        vertices, faces = marching_cubes(level)
        # Densities are exponentials: their logarithm is what is nearly linear between two samples.
        density = np.log(np.maximum(self.values, threshold * 1e-4) / np.float32(threshold))
        vertices = self._polish(vertices, level, density, threshold) * self.spacing - self.bound
        self._bar.close()
        return Mesh(torch.from_numpy(vertices.astype(np.float32)), torch.from_numpy(faces))

    def _polish(self, vertices: np.ndarray, level: np.ndarray, density: np.ndarray, threshold: float) -> np.ndarray:
        """Move vertices along their grid edges to where the field itself crosses the threshold, if it does as `level`.

        `density` is the logarithm of its ratio to the threshold, and like `level` above 0 inside. [n, n, n]
        """
        axis = np.abs(vertices - np.rint(vertices)).argmax(axis=1)
        rows = np.arange(len(vertices))
        inner = np.flatnonzero((vertices.min(axis=1) >= 0) & (vertices.max(axis=1) <= self.cells))
        rows, axis = rows[inner], axis[inner]
        start = np.floor(vertices[rows, axis])
        corner = np.rint(vertices[rows]).astype(np.int64)
        corner[np.arange(len(rows)), axis] = start.astype(np.int64)
        ends = corner.copy()
        ends[np.arange(len(rows)), axis] += 1
        corner, ends = tuple(corner.T), tuple(ends.T)
        crosses = ((density[corner] > 0) == (level[corner] > 0)) & ((density[ends] > 0) == (level[ends] > 0))
        at_a, at_b = density[corner][crosses].astype(np.float64), density[ends][crosses].astype(np.float64)
        rows, axis, start = rows[crosses], axis[crosses], start[crosses]
        a, b = np.zeros(len(rows)), np.ones(len(rows))  # the crossing lies between a and b
        self._bar.total += 2 * len(rows)
        for _ in range(2):
            share = a + (b - a) * np.clip(at_a / (at_a - at_b), 0.05, 0.95)
            vertices[rows, axis] = start + share
            value = np.log(
                np.maximum(self.density(vertices[rows] * self.spacing - self.bound), threshold * 1e-4) / threshold
            )
            to_a = (value > 0) == (at_a > 0)
            a, at_a = np.where(to_a, share, a), np.where(to_a, value, at_a)
            b, at_b = np.where(to_a, b, share), np.where(to_a, at_b, value)
            self._bar.update(len(rows))
        difference = np.where(at_a == at_b, 1.0, at_a - at_b)
        share = a + (b - a) * np.where(at_a == at_b, 0.5, at_a / difference)
        vertices[rows, axis] = start + share.clip(1e-3, 1 - 1e-3)
        return vertices


def extract(
    density_fn: Callable[[Tensor], Tensor],
    *,
    resolution: int,
    bound: float,
    occupied: Tensor | None = None,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> Mesh:
    """The surface of a density field as a closed mesh, counter-clockwise from outside; see `DensityVolume`.

    Raises:
        ValueError: The scene is empty, or the field is not finite.
    """
    volume = DensityVolume(
        density_fn, resolution=resolution, bound=bound, occupied=occupied, device=device, progress=progress
    )
    threshold = find_threshold(volume.values, volume.spacing)
    volume.refine(threshold)
    return volume.surface(threshold)
