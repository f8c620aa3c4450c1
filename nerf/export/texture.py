"""Texture baking: which point of the surface each texel shows, and the colour of the field there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize
from tqdm import tqdm

from nerf.mesh import vertex_normals
from nerf.types import Mesh

BORDER = 1.5  # texels around a triangle that bilinear sampling inside of it may read


def _candidates(corners: np.ndarray, size: int, chunk: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Texels in the bounding boxes of triangles: face, column, row. Corners in texels [F, 3, 2]; ~`chunk` at a time."""
    low = np.floor(corners.min(axis=1) - BORDER).clip(0, size - 1).astype(np.int64)
    high = np.ceil(corners.max(axis=1) + BORDER).clip(0, size - 1).astype(np.int64)
    extent = high - low + 1
    ends = np.cumsum(extent.prod(axis=1))
    first = 0
    while first < len(corners):
        start = ends[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(ends, start + chunk, side="right")))
        counts = extent[first:last].prod(axis=1)
        face = np.repeat(np.arange(first, last), counts)
        within = np.arange(len(face)) - np.repeat(np.cumsum(counts) - counts, counts)
        row, column = np.divmod(within, extent[face, 0])
        yield face, column + low[face, 0], row + low[face, 1]
        first = last


def _barycentrics(corners: np.ndarray, face: np.ndarray, column: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Barycentric coordinates of texel centres; negative outside; NaN for triangles without area. [M, 3]"""
    a, b, c = (corners[face, k] for k in range(3))
    point = np.stack([column, row], axis=1)

    def cross(p, q):
        return p[:, 0] * q[:, 1] - p[:, 1] * q[:, 0]

    with np.errstate(divide="ignore", invalid="ignore"):
        inverse = 1 / cross(b - a, c - a)
        second, third = cross(point - a, c - a) * inverse, cross(b - a, point - a) * inverse
    return np.stack([1 - second - third, second, third], axis=1)


def rasterise_uvs(uvs: np.ndarray, size: int, chunk: int = 2**20) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The face each texel belongs to: the one its centre lies in, else the nearest within `BORDER` texels.

    Args:
        uvs: Texture coordinates per corner. [F, 3, 2]
        size: Texels per side.

    Returns:
        texel [M] flat index of covered texels (row 0 is v = 1), face [M], barycentrics [M, 3] >= 0, sum 1.
    """
    corners = uvs.astype(np.float64) * size - 0.5  # texel centres at whole numbers
    corners[..., 1] = size - 1 - corners[..., 1]
    sides = np.stack([corners[:, (k + 2) % 3] - corners[:, (k + 1) % 3] for k in range(3)], axis=1)
    area = np.abs(sides[:, 0, 0] * sides[:, 1, 1] - sides[:, 0, 1] * sides[:, 1, 0])
    heights = area[:, None] / np.maximum(np.linalg.norm(sides, axis=2), 1e-12)  # of the corner over its side, texels
    owner = np.full(size * size, -1, dtype=np.int64)
    near_texel, near_face, near_distance = [], [], []
    for face, column, row in _candidates(corners, size, chunk):
        # The smallest signed distance to a side, in texels: >= 0 inside.
        distance = (_barycentrics(corners, face, column, row) * heights[face]).min(axis=1)
        texel = row * size + column
        inside = distance >= 0
        owner[texel[inside]] = face[inside]
        near = (distance < 0) & (distance >= -BORDER)
        near_texel.append(texel[near])
        near_face.append(face[near])
        near_distance.append(distance[near].astype(np.float32))
    if near_texel:
        texel, face, distance = map(np.concatenate, (near_texel, near_face, near_distance))
        free = np.flatnonzero(owner[texel] < 0)
        free = free[np.argsort(distance[free], kind="stable")]  # the nearest is written last and stays
        owner[texel[free]] = face[free]
    texel = np.flatnonzero(owner >= 0)
    face = owner[texel]
    weights = np.concatenate(
        [_barycentrics(corners, face[s], texel[s] % size, texel[s] // size) for s in _slices(len(texel), chunk)]
        or [np.zeros((0, 3))]
    ).clip(0, 1)
    return texel, face, weights / weights.sum(axis=1, keepdims=True)


def _slices(count: int, chunk: int) -> list[slice]:
    return [slice(first, min(first + chunk, count)) for first in range(0, count, chunk)]


def pad_texture(picture: np.ndarray, covered: np.ndarray) -> np.ndarray:
    """Fill texels that no face covers with the nearest covered one, so that mipmaps do not bleed. [H, W, 3], [H, W]"""
    import cv2

    if covered.all() or not covered.any():
        return picture
    _, labels = cv2.distanceTransformWithLabels(
        (~covered).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    nearest = np.zeros(labels.max() + 1, dtype=np.int64)
    nearest[labels[covered]] = np.flatnonzero(covered)
    return picture.reshape(-1, 3)[nearest[labels]]


def bake(
    mesh: Mesh,
    color_fn: Callable[[Tensor, Tensor], Tensor],
    *,
    size: int = 2048,
    chunk: int = 2**18,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> Mesh:
    """The mesh with a texture: `color_fn` asked once for each texel that shows a point of the surface.

    Args:
        mesh: With `uvs`.
        color_fn: Colour in [0, 1] at points of the surface with their unit normals. [M, 3], [M, 3] -> [M, 3]
        size: Texels per side.
        chunk: Points per call of `color_fn`.
        device: Where `color_fn` wants its points.
    """
    if mesh.uvs is None:
        raise ValueError("a mesh without texture coordinates cannot be textured; call unwrap first")
    vertices, faces = mesh.vertices.detach().cpu(), mesh.faces.detach().cpu().long()
    normals = vertex_normals(vertices, faces)
    texel, face, weights = rasterise_uvs(mesh.uvs.detach().cpu().numpy(), size)
    picture = np.zeros((size * size, 3), dtype=np.float32)
    bar = tqdm(desc="texture", total=len(texel), unit="texel", unit_scale=True, disable=not progress)
    for part in _slices(len(texel), chunk):
        corner = faces[torch.from_numpy(face[part])]
        share = torch.from_numpy(weights[part]).float()[..., None]
        positions, directions = ((values[corner] * share).sum(1).to(device) for values in (vertices, normals))
        with torch.no_grad():
            colors = color_fn(positions, normalize(directions, dim=1))
        picture[texel[part]] = colors.float().nan_to_num().clamp(0, 1).cpu().numpy()
        bar.update(part.stop - part.start)
    bar.close()
    covered = np.zeros(size * size, dtype=bool)
    covered[texel] = True
    picture = pad_texture(picture.reshape(size, size, 3), covered.reshape(size, size))
    return replace(mesh, texture=torch.from_numpy(picture))


def seen_color(field, *, outside: float, inside: float, samples: int = 4) -> Callable[[Tensor, Tensor], Tensor]:
    """A `color_fn` for `bake`: the colour a camera straight above the surface sees, as volume rendering has it.

    A level set often lies in front of what gives the object its colour, where nothing has trained the albedo. So the
    field is blended along the normal from `outside` above to `inside` below the surface, both in scene units
    (NeRF, arXiv:2003.08934, eq. 3); what light is left at the end takes the colour of the last sample.
    """
    step = (outside + inside) / samples

    def color(positions: Tensor, normals: Tensor) -> Tensor:
        heights = outside - step * (torch.arange(samples, device=positions.device) + 0.5)
        points = positions[:, None] + heights[:, None] * normals[:, None]
        sigma, albedo = field.query(points.reshape(-1, 3).clamp(-field.bound, field.bound))
        sigma, albedo = sigma.float().reshape(-1, samples), albedo.float().reshape(-1, samples, 3)
        through = torch.exp(-torch.cumsum(sigma * step, dim=1))  # light left behind each sample
        through[:, -1] = 0
        weights = torch.cat([1 - through[:, :1], through[:, :-1] - through[:, 1:]], dim=1)
        return (weights[..., None] * albedo).sum(1)

    return color
