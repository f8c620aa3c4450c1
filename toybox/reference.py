"""The tracer in plain torch: the oracle of csrc/, and what runs on a GPU or without a compiler."""

from __future__ import annotations

import torch
from torch import Tensor

from toybox.primitives import BOX, CONE, CYLINDER, ELLIPSOID, SPOTS, STRIPES

STEPS, HIT, RELAX, REACH = 96, 1.2e-3, 0.9, 0.85
SPOT_CELL, SPOT_RADIUS, STRIPE_PERIOD = 0.17, 0.05, 0.16
_NORMAL_STEP = 2e-3


def query(primitives: Tensor, points: Tensor) -> Tensor:
    """Signed distance and colour of the nearest primitive. [M, 3] -> [M, 4]"""
    distance = best = points.new_full((len(points),), 1e9)
    colour = points.new_zeros(len(points), 3)
    for row in primitives:
        local = (points - row[11:14]) @ row[2:11].view(3, 3).T
        s = _primitive(int(row[0]), row[14:18], local)
        colour = torch.where((s < best)[:, None], _colour(row, points), colour)
        best = torch.minimum(best, s)
        blend = float(row[1])
        h = (blend - (distance - s).abs()).clamp(min=0) / blend if blend > 0 else torch.zeros_like(s)
        distance = torch.minimum(distance, s) - h * h * blend / 4
    return torch.cat([distance[:, None], colour], -1)


def trace(primitives: Tensor, views: Tensor, resolution: int) -> Tensor:
    """Colour, hit, normal and distance of every pixel. -> [B, R, R, 8]"""
    batch = len(views)
    grid = (torch.arange(resolution, device=views.device, dtype=views.dtype) + 0.5) / resolution * 2 - 1
    origin, right, up, forward = views.view(batch, 1, 1, 12).split(3, -1)
    direction = forward + grid[None, None, :, None] * right - grid[None, :, None, None] * up
    direction = torch.nn.functional.normalize(direction, dim=-1).reshape(-1, 3)
    origin = origin.expand(-1, resolution, resolution, -1).reshape(-1, 3)
    b = (origin * direction).sum(-1)
    inside = b * b - origin.square().sum(-1) + REACH**2
    half = inside.clamp(min=0).sqrt()
    t, end = (-b - half).clamp(min=0), half - b
    alive = ((inside > 0) & (end > 0)).nonzero()[:, 0]
    hit = torch.zeros_like(inside, dtype=torch.bool)
    for _ in range(STEPS):
        if not len(alive):
            break
        distance = query(primitives, origin[alive] + t[alive, None] * direction[alive])[:, 0]
        reached = distance < HIT
        hit[alive[reached]] = True
        t[alive] += torch.where(reached, 0, distance * RELAX)
        alive = alive[~reached & (t[alive] < end[alive])]
    out = views.new_zeros(batch * resolution**2, 8)
    surface = origin[hit] + t[hit, None] * direction[hit]
    offsets = torch.eye(3, device=views.device, dtype=views.dtype) * _NORMAL_STEP
    slope = [query(primitives, surface + o)[:, 0] - query(primitives, surface - o)[:, 0] for o in offsets]
    out[hit, :3] = query(primitives, surface)[:, 1:]
    out[hit, 3] = 1
    out[hit, 4:7] = torch.nn.functional.normalize(torch.stack(slope, -1), dim=-1)
    out[hit, 7] = t[hit]
    return out.view(batch, resolution, resolution, 8)


def _colour(row: Tensor, points: Tensor) -> Tensor:
    """The colour of a primitive at points of the scene. [M, 3] -> [M, 3] or [3] where it is the same everywhere"""
    if row[21] == STRIPES:
        y = points[:, 1] / STRIPE_PERIOD
        marked = y - y.floor() < 0.5
    elif row[21] == SPOTS:  # around the points of a body-centred cubic lattice, which is two cubic ones
        offsets = [p - p.round() for p in (points / SPOT_CELL, points / SPOT_CELL + 0.5)]
        marked = torch.stack([o.square().sum(-1) for o in offsets]).amin(0) < (SPOT_RADIUS / SPOT_CELL) ** 2
    else:
        return row[18:21]
    return torch.where(marked[:, None], row[22:25], row[18:21])


def _primitive(kind: int, size: Tensor, p: Tensor) -> Tensor:
    """Signed distance to one primitive in its own frame. [M, 3] -> [M]"""
    if kind == ELLIPSOID:
        r = size[:3]
        k0 = (p / r).norm(dim=-1)
        return k0 * (k0 - 1) / (p / r**2).norm(dim=-1).clamp(min=1e-6)
    if kind == BOX:
        q = p.abs() - size[:3] + size[3]
        return q.clamp(min=0).norm(dim=-1) + q.amax(-1).clamp(max=0) - size[3]
    ring = p[:, [0, 2]].norm(dim=-1)
    if kind == CYLINDER:
        q = torch.stack([ring - size[0], p[:, 1].abs() - size[1]], -1) + size[3]
        return q.amax(-1).clamp(max=0) + q.clamp(min=0).norm(dim=-1) - size[3]
    if kind == CONE:
        h, bottom, top = size[0], size[1], size[2]
        slope, rise = top - bottom, 2 * h
        ax, ay = ring - torch.minimum(ring, torch.where(p[:, 1] < 0, bottom, top)), p[:, 1].abs() - h
        t = (((top - ring) * slope + (h - p[:, 1]) * rise) / (slope**2 + rise**2)).clamp(0, 1)
        bx, by = ring - top + slope * t, p[:, 1] - h + rise * t
        d = torch.minimum(ax * ax + ay * ay, bx * bx + by * by).sqrt()
        return torch.where((bx < 0) & (ay < 0), -d, d)
    return torch.stack([ring - size[0], p[:, 1]], -1).norm(dim=-1) - size[1]
