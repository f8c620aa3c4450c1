"""The vocabulary of solids: a list of signed-distance primitives with colours, as one float32 array.

One row is one primitive, ROW floats long:
    kind, blend, rotation (world to local, row-major, 9), centre (3), size (4), colour (3), pattern, second colour (3)
`blend` is the radius of the smooth union with everything before it (0: a hard union). `pattern` is PLAIN, SPOTS or
STRIPES of the second colour, in the frame of the scene (csrc/trace.h has their sizes).
"""

from __future__ import annotations

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

    def rows(self, half_extent=0.45):
        """All primitives, centred, and scaled so that the largest half extent is `half_extent`. [P, ROW] float32"""
        rows = np.array(self._rows, np.float32)
        low, high = bounds(rows)
        scale = half_extent / max((high - low).max() / 2, 1e-6)
        rows[:, 11:14] = (rows[:, 11:14] - (low + high) / 2) * scale
        rows[:, 14:18] *= scale
        rows[:, 1] *= scale
        return np.ascontiguousarray(rows)


def bounds(rows):
    """The axis-aligned box around all primitives. -> low [3], high [3]"""
    local = np.zeros((len(rows), 3), np.float32)
    kind, size = rows[:, 0], rows[:, 14:18]
    for value, columns in ((ELLIPSOID, (0, 1, 2)), (BOX, (0, 1, 2)), (CYLINDER, (0, 1, 0))):
        local[kind == value] = size[kind == value][:, columns]
    cone = kind == CONE
    widest = np.maximum(size[cone, 1], size[cone, 2])
    local[cone] = np.stack([widest, size[cone, 0], widest], -1)
    torus = kind == TORUS
    ring = size[torus, 0] + size[torus, 1]
    local[torus] = np.stack([ring, size[torus, 1], ring], -1)
    to_world = np.abs(rows[:, 2:11].reshape(-1, 3, 3)).transpose(0, 2, 1)
    boxed = (to_world * local[:, None]).sum(-1)
    rounded = np.sqrt(((to_world * local[:, None]) ** 2).sum(-1))
    half = np.where((kind == ELLIPSOID)[:, None], rounded, boxed)
    centre = rows[:, 11:14]
    return (centre - half).min(0), (centre + half).max(0)
