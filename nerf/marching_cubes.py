"""Marching cubes (Lorensen and Cline 1987) over the cells that hold surface, with a table made at import.

The table is derived, not typed: on each face of a cell the surface crosses in segments that cut off runs of
inside corners, segments chain into loops, loops are cut into triangles. What happens on a face depends on that
face's corners alone, so neighbouring cells always agree and the surface is a closed 2-manifold.

Corner c of a cell sits at (c >> 2 & 1, c >> 1 & 1, c & 1); edge e joins two corners that differ in one axis.
"""

from __future__ import annotations

from functools import cache, lru_cache

import numpy as np

CORNERS = np.array([[c >> 2 & 1, c >> 1 & 1, c & 1] for c in range(8)])
# Edges as (axis, lower corner); the axis bit of corner numbers is 4 for x, 2 for y, 1 for z.
EDGES = [(axis, c) for axis in range(3) for c in range(8) if not c & (4 >> axis)]
EDGE_OF = {frozenset((c, c | 4 >> axis)): e for e, (axis, c) in enumerate(EDGES)}


def _face_cycles() -> list[list[int]]:
    """The four corners of each of the six faces, counter-clockwise seen from outside the cell."""
    cycles = []
    for axis in range(3):
        u, v = 4 >> (axis + 1) % 3, 4 >> (axis + 2) % 3  # axis, u, v are right-handed
        for side in (0, 4 >> axis):
            cycle = [side, side | u, side | u | v, side | v]
            cycles.append(cycle if side else cycle[::-1])
    return cycles


def _loops(case: int) -> list[list[int]]:
    """Closed chains of crossed edges for one pattern of inside corners, counter-clockwise seen from outside."""
    following = {}
    for cycle in _face_cycles():
        inside = [case >> c & 1 for c in cycle]
        for k in range(4):
            if inside[k] or not inside[(k + 1) % 4]:
                continue
            # A run of inside corners starts after k; one segment cuts it off.
            end = next(j for j in range(k + 1, k + 5) if not inside[(j + 1) % 4])
            enter = EDGE_OF[frozenset((cycle[k], cycle[(k + 1) % 4]))]
            leave = EDGE_OF[frozenset((cycle[end % 4], cycle[(end + 1) % 4]))]
            following[enter] = leave
    loops = []
    while following:
        start, step = following.popitem()
        loop = [start]
        while step != start:
            loop.append(step)
            step = following.pop(step)
        loops.append(loop)
    return loops


@cache
def _edge_faces(edge: int) -> frozenset[tuple[int, int]]:
    """The two faces (axis, side) of the cell an edge lies in."""
    axis, corner = EDGES[edge]
    return frozenset((a, corner & (4 >> a)) for a in range(3) if a != axis)


def _triangulate(loop: tuple[int, ...]) -> list[tuple[int, int, int]] | None:
    """Cut a loop into triangles without a diagonal inside a face of the cell; None if that is impossible.

    Such a diagonal could coincide with one of the neighbouring cell: four triangles would share an edge.
    """
    if len(loop) < 3:
        return []
    first, last = loop[0], loop[-1]
    for k in range(1, len(loop) - 1):
        cuts = [(first, loop[k])] * (k > 1) + [(loop[k], last)] * (k < len(loop) - 2)
        if any(_edge_faces(a) & _edge_faces(b) for a, b in cuts):
            continue
        left, right = _triangulate(loop[: k + 1]), _triangulate(loop[k:])
        if left is not None and right is not None:
            return [(first, loop[k], last), *left, *right]
    return None


@lru_cache(maxsize=1)
def triangle_table() -> tuple[np.ndarray, np.ndarray]:
    """Triangles per case [256] and their edges [256, T, 3], padded with 0."""
    triangles = []
    for case in range(256):
        cut = [_triangulate(tuple(loop)) for loop in _loops(case)]
        assert None not in cut, f"case {case} has no safe triangulation"
        triangles.append([t for part in cut for t in part])
    counts = np.array([len(t) for t in triangles])
    table = np.zeros((256, counts.max(), 3), dtype=np.int64)
    for case, found in enumerate(triangles):
        table[case, : len(found)] = np.array(found, dtype=np.int64).reshape(-1, 3)
    return counts, table


def _pad(volume: np.ndarray) -> np.ndarray:
    """`volume > 0` with a border of False, so that objects that touch the box are closed."""
    inside = np.zeros(tuple(n + 2 for n in volume.shape), dtype=bool)
    np.greater(volume, 0, out=inside[1:-1, 1:-1, 1:-1])
    return inside


def _cases(inside: np.ndarray) -> np.ndarray:
    """The pattern of inside corners of every cell, uint8. [X-1, Y-1, Z-1]"""
    bits = inside.view(np.uint8)
    bits = bits[:, :, :-1] | bits[:, :, 1:] << 1
    bits = bits[:, :-1] | bits[:, 1:] << 2
    return bits[:-1] | bits[1:] << 4


def _vertices(volume: np.ndarray, inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sorted keys (axis * size + index of the lower corner) of all crossed edges, and a vertex on each."""
    keys, vertices = [], []
    last = np.array(volume.shape) - 1
    for axis in range(3):
        low = [slice(None)] * 3
        high = [slice(None)] * 3
        low[axis], high[axis] = slice(None, -1), slice(1, None)
        crossed = np.zeros_like(inside)
        np.not_equal(inside[tuple(low)], inside[tuple(high)], out=crossed[tuple(low)])
        index = np.flatnonzero(crossed)
        corner = np.stack(np.unravel_index(index, inside.shape), axis=1) - 1  # -1: without the border
        ends = []
        for step in (0, 1):
            at = corner.copy()
            at[:, axis] += step
            border = (at[:, axis] < 0) | (at[:, axis] > last[axis])
            value = volume[tuple(np.clip(at, 0, last).T)].astype(np.float64)
            ends.append(np.where(border, -1e30, value))  # so low that the vertex lies on the side of the box
        # Kept off the corners: vertices of different edges never meet, so no triangle collapses.
        share = np.clip(ends[0] / np.where(ends[0] == ends[1], 1.0, ends[0] - ends[1]), 1e-3, 1 - 1e-3)
        position = corner.astype(np.float64)
        position[:, axis] += share
        keys.append(index + axis * inside.size)
        vertices.append(position)
    return np.concatenate(keys), np.concatenate(vertices)


def marching_cubes(volume: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The surface where a sampled scalar field is zero, as a closed triangle mesh.

    Faces are counter-clockwise seen from where the field is negative (outside). Beyond the volume the field
    counts as negative: what touches the border is closed there. Every vertex lies on one grid edge, at least
    1e-3 cells from its ends, and is shared by all faces around it (welded).

    Args:
        volume: Finite samples, positive inside. [X, Y, Z]

    Returns:
        vertices [V, 3] float64 in units of samples (x, y, z index), faces [F, 3] int32; both empty without surface.
    """
    inside = _pad(volume)
    cases = _cases(inside)
    active = np.flatnonzero((cases != 0) & (cases != 255))
    case = cases.ravel()[active]
    cell = np.ravel_multi_index(np.unravel_index(active, cases.shape), inside.shape)
    del cases
    counts, table = triangle_table()
    strides = np.array([inside.shape[1] * inside.shape[2], inside.shape[2], 1])
    edge_key = np.array([axis * inside.size + CORNERS[corner] @ strides for axis, corner in EDGES])
    triangles = []
    for k in range(table.shape[1]):
        has = counts[case] > k
        triangles.append(cell[has, None] + edge_key[table[case[has], k]])
    keys, vertices = _vertices(volume, inside)
    faces = np.searchsorted(keys, np.concatenate(triangles)) if len(keys) else np.zeros((0, 3))
    return vertices, faces.astype(np.int32)
