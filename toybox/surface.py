"""How far a surface is from another: Chamfer distance, F-score, angle of the normals, of what is seen from outside.

Letters: M points, V vertices, F faces. Lengths in scene units; an object is 0.9 long.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from toybox.tracer import query

COUNT = 20_000  # points of each surface that are compared
NEAR = 0.02  # of the F-score, scene units
DRAWN = 100_000  # points of which those are chosen: hidden ones go, and all are the screen behind which they hide
SHELL = 0.004  # points this near to the surface of a solid are moved onto it
CELLS, HALF = 32, 0.5  # of the grid that finds them: cells a side, half its length
PIXEL, DEPTH = 0.025, 0.04  # of the pictures that decide what is seen: a dozen points a pixel
STEP = 1e-3  # of the differences that give the gradient: float32 distances are good to 1e-7


@dataclass(frozen=True)
class Surface:
    """Points spread evenly over a surface."""

    points: Tensor  # [M, 3]
    normals: Tensor  # unit length, outwards [M, 3]


def of_mesh(vertices: Tensor, faces: Tensor, *, count: int = COUNT, seed: int = 0) -> Surface:
    """Points on what is seen from outside of a triangle mesh. [V, 3], [F, 3] integer"""
    generator = torch.Generator().manual_seed(seed)
    corners = vertices.float()[faces.long()]
    a, b, c = corners.unbind(1)
    double = torch.linalg.cross(b - a, c - a)
    cumulated = double.norm(dim=1).double().cumsum(0)
    draw = torch.rand(DRAWN, generator=generator, dtype=torch.float64) * cumulated[-1]
    face = torch.searchsorted(cumulated, draw).clamp(max=len(faces) - 1)
    u, v = torch.rand(2, len(face), 1, generator=generator)
    u, v = torch.where(u + v > 1, 1 - u, u), torch.where(u + v > 1, 1 - v, v)  # uniform in the triangle
    points = a[face] + u * (b - a)[face] + v * (c - a)[face]
    normals = torch.nn.functional.normalize(double[face], dim=1, eps=1e-20)
    return _seen(Surface(points, normals), count)


def of_solid(primitives: Tensor, *, count: int = COUNT, seed: int = 0) -> Surface:
    """Points on what is seen from outside of a solid, `Solid.rows()` as a tensor. [P, ROW]

    The area of f = 0 is the integral of delta(f) |grad f| (coarea formula): of points that are uniform in a thin shell,
    those kept with probability |grad f| are uniform on the surface, even where f is not quite a distance.
    """
    generator = torch.Generator().manual_seed(seed)
    size = 2 * HALF / CELLS
    line = (torch.arange(CELLS) + 0.5) * size - HALF
    centres = torch.cartesian_prod(line, line, line)
    # sqrt(3) / 2 is from the middle to a corner; three times that, because f of a flat ellipsoid exaggerates
    cells = centres[query(primitives, centres)[:, 0].abs() < 3 * 0.87 * size]
    found, total = [], 0
    while total < DRAWN:
        points = cells[torch.randint(len(cells), (4 * DRAWN,), generator=generator)]
        points = points + (torch.rand(points.shape, generator=generator) - 0.5) * size
        points = points[query(primitives, points)[:, 0].abs() < SHELL]
        steep = _gradient(primitives, points).norm(dim=1)
        # 1.5: f is rarely that steep; where it is, points are a little too few
        found.append(points[torch.rand(len(points), generator=generator) < steep / 1.5])
        total += len(found[-1])
    points = torch.cat(found)[:DRAWN]
    for _ in range(3):  # Newton; the first step leaves the error of the gradient times SHELL
        gradient = _gradient(primitives, points)
        length = gradient.square().sum(1, keepdim=True).clamp(min=0.1)
        points = points - query(primitives, points)[:, :1] * gradient / length
    return _seen(Surface(points, torch.nn.functional.normalize(_gradient(primitives, points), dim=1)), count)


def _gradient(primitives: Tensor, points: Tensor) -> Tensor:
    """Of the signed distance, from its values at the corners of a tetrahedron. [M, 3]"""
    corners = torch.tensor([[1.0, -1, -1], [-1, -1, 1], [-1, 1, -1], [1, 1, 1]])
    values = query(primitives, (points[:, None] + STEP * corners).reshape(-1, 3))[:, 0].view(-1, 4)
    return values @ corners / (4 * STEP)


def _seen(surface: Surface, count: int) -> Surface:
    """`count` of the points that are seen from outside, or all of them if they are fewer."""
    seen = outside(surface.points).nonzero()[:count, 0]
    return Surface(surface.points[seen], surface.normals[seen])


def outside(points: Tensor) -> Tensor:
    """Which points are first, or at most DEPTH behind the first, along one of 26 directions. [M, 3] -> [M] bool"""
    seen = torch.zeros(len(points), dtype=torch.bool)
    axis = torch.tensor([-1.0, 0, 1])
    for towards in torch.nn.functional.normalize(torch.cartesian_prod(axis, axis, axis), dim=1):
        if not towards.any():
            continue
        right = torch.linalg.cross(towards, torch.eye(3)[int(towards.abs().argmin())])
        right = right / right.norm()
        flat = points @ torch.stack([right, torch.linalg.cross(towards, right)], 1)
        pixel = (flat / PIXEL).floor().long()
        pixel = pixel - pixel.amin(0)
        pixel = pixel[:, 0] * (int(pixel[:, 1].max()) + 1) + pixel[:, 1]
        depth = points @ -towards
        first = torch.full((int(pixel.max()) + 1,), torch.inf).scatter_reduce(0, pixel, depth, "amin")
        seen |= depth <= first[pixel] + DEPTH
    return seen


@dataclass(frozen=True)
class Difference:
    chamfer: float  # mean distance to the nearest point of the other surface, mean of both ways, scene units
    fscore: float  # harmonic mean of the shares of either surface that are within NEAR of the other, in [0, 1]
    normal: float  # mean angle between the normals of a point and the nearest one, mean of both ways, degrees


def difference(result: Surface, truth: Surface) -> Difference:
    """Between two surfaces, which are not aligned. Nothing against something: infinitely far, F-score 0, 90 degrees.

    Two samples of COUNT points of the same object are 0.005 apart with normals 3 degrees apart: that is the floor.
    """
    if not len(result.points) or not len(truth.points):
        return Difference(torch.inf, 0.0, 90.0)
    there, back = _nearest(result.points, truth.points), _nearest(truth.points, result.points)
    gaps = [(result.points - truth.points[there]).norm(dim=1), (truth.points - result.points[back]).norm(dim=1)]
    cosines = [(result.normals * truth.normals[there]).sum(1), (truth.normals * result.normals[back]).sum(1)]
    precision, recall = (float((gap <= NEAR).float().mean()) for gap in gaps)
    return Difference(
        chamfer=sum(float(gap.mean()) for gap in gaps) / 2,
        fscore=2 * precision * recall / max(precision + recall, 1e-9),
        normal=sum(float(torch.rad2deg(cosine.clamp(-1, 1).acos()).mean()) for cosine in cosines) / 2,
    )


def _nearest(points: Tensor, others: Tensor, chunk: int = 64) -> Tensor:
    """Index of the nearest of the others for each point. [M, 3], [N, 3] -> [M]"""
    # |p - q|^2 is least where p.q - |q|^2 / 2 is greatest: one product, which numpy's argmax reads 6 times as fast.
    others = torch.cat([others, others.square().sum(1, keepdim=True) / -2], 1).T.contiguous()
    points = torch.nn.functional.pad(points, (0, 1), value=1.0)
    return torch.cat([torch.from_numpy((part @ others).numpy().argmax(1)) for part in points.split(chunk)])
