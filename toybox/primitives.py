"""The vocabulary of solids: a list of signed-distance primitives with colours, as one float32 array.

One row is one primitive, ROW floats long:
    kind, blend, rotation (world to local, row-major, 9), centre (3), size (4), colour (3), pattern, second colour (3)
`blend` is the radius of the smooth union with everything before it (0: a hard union). `pattern` is PLAIN, SPOTS or
STRIPES of the second colour, in the frame of the scene (csrc/trace.h has their sizes).
"""

from __future__ import annotations

from functools import cache

import numpy as np

ROW = 25
PLAIN, SPOTS, STRIPES = range(3)
ELLIPSOID, BOX, CYLINDER, CONE, TORUS = range(5)
_IDENTITY = np.eye(3)


def rotate_x(degrees):
    """Rotation about x, counter-clockwise seen from +x. [3, 3]"""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])


def rotate_y(degrees):
    """Rotation about y, counter-clockwise seen from +y. [3, 3]"""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def rotate_z(degrees):
    """Rotation about z, counter-clockwise seen from +z. [3, 3]"""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


class Solid:
    """A union of coloured primitives. Every method that adds one returns the solid."""

    def __init__(self):
        self._rows = []
        self.head = self.neck = None  # where a hat and a scarf go: see `wears`

    def _add(self, kind, centre, size, colour, rotation, blend):
        size = [*size, *[0.0] * (4 - len(size))]
        self._rows.append([kind, blend, *np.asarray(rotation).T.reshape(-1), *centre, *size, *colour, PLAIN, *colour])
        return self

    def ellipsoid(self, centre, radii, colour, rotation=_IDENTITY, blend=0.0):
        return self._add(ELLIPSOID, centre, radii, colour, rotation, blend)

    def sphere(self, centre, radius, colour, blend=0.0):
        return self._add(ELLIPSOID, centre, (radius, radius, radius), colour, _IDENTITY, blend)

    def box(self, centre, half, colour, rounding=0.02, rotation=_IDENTITY, blend=0.0):
        return self._add(BOX, centre, (*half, min(rounding, *half)), colour, rotation, blend)

    def cylinder(self, centre, radius, half_height, colour, rounding=0.01, rotation=_IDENTITY, blend=0.0):
        rounding = min(rounding, radius, half_height)
        return self._add(CYLINDER, centre, (radius, half_height, 0.0, rounding), colour, rotation, blend)

    def cone(self, centre, half_height, bottom, top, colour, rotation=_IDENTITY, blend=0.0):
        return self._add(CONE, centre, (half_height, bottom, top), colour, rotation, blend)

    def torus(self, centre, radius, thickness, colour, rotation=_IDENTITY, blend=0.0):
        return self._add(TORUS, centre, (radius, thickness), colour, rotation, blend)

    def wears(self, *, head, neck):
        """Where things to wear belong.

        Args:
            head: Point on top of the head where a hat sits, and the radius of the head there. (x, y, z), r
            neck: Centre of a scarf, radius of its ring, and how far it leans: the angle in degrees by which the front
                of the ring is lower. (x, y, z), r, degrees
        """
        self.head, self.neck = head, neck
        return self

    def paint(self, colour, pattern, second):
        """Give everything of exactly this colour a pattern of a second one."""
        for row in self._rows:
            if tuple(row[18:21]) == tuple(colour):
                row[21:] = [pattern, *second]
        return self

    def bounds(self):
        """The axis-aligned box around all primitives. -> low [3], high [3]"""
        return bounds(np.array(self._rows, np.float32))

    def rows(self, half_extent=0.45, in_picture=0.53):
        """All primitives, centred and scaled. [P, ROW] float32

        Args:
            half_extent: Largest half extent along an axis.
            in_picture: Largest half extent upwards or sidewards in the picture of any camera; keeps corners inside.
        """
        rows = np.array(self._rows, np.float32)
        low, high = bounds(rows)
        rows[:, 11:14] -= (low + high) / 2
        seen = np.abs(extents(rows, _picture_axes())).max()
        scale = min(half_extent / max((high - low).max() / 2, 1e-6), in_picture / max(seen, 1e-6))
        rows[:, 11:14] *= scale
        rows[:, 14:18] *= scale
        rows[:, 1] *= scale
        return np.ascontiguousarray(rows)


def bounds(rows):
    """The axis-aligned box around all primitives. -> low [3], high [3]"""
    low, high = extents(rows, np.eye(3, dtype=np.float32))
    return low, high


def extents(rows, directions):
    """How far all primitives reach along unit vectors, backwards and forwards. [P, ROW], [D, 3] -> [2, D]"""
    local = np.einsum("pij,dj->pdi", rows[:, 2:11].reshape(-1, 3, 3), directions)
    centre = rows[:, 11:14] @ directions.T
    forwards, backwards = _reach(rows, local), _reach(rows, -local)
    return np.stack([(centre - backwards).min(0), (centre + forwards).max(0)])


def _reach(rows, d):
    """Support function of each primitive in its own frame. [P, ROW], [P, D, 3] -> [P, D]"""
    kind, size = rows[:, 0, None], rows[:, None, 14:18]
    flat, up = np.hypot(d[..., 0], d[..., 2]), d[..., 1]
    a, b, c = size[..., 0], size[..., 1], size[..., 2]
    return np.select(
        [kind == ELLIPSOID, kind == BOX, kind == CYLINDER, kind == CONE],
        [
            np.linalg.norm(d * size[..., :3], axis=-1),
            (np.abs(d) * size[..., :3]).sum(-1),
            a * flat + b * np.abs(up),
            np.maximum(a * up + c * flat, b * flat - a * up),  # its top or its bottom
        ],
        a * flat + b,  # a torus
    )


@cache
def _picture_axes():
    """Sidewards and upwards in the pictures of cameras all around and up to 35 degrees above. [D, 3] float32"""
    sidewards = [rotate_y(azimuth) @ (1, 0, 0) for azimuth in range(0, 180, 30)]
    upwards = [rotate_y(azimuth) @ rotate_x(angle) @ (0, 1, 0) for azimuth in range(0, 360, 30) for angle in (15, 35)]
    return np.array(sidewards + upwards, np.float32)
