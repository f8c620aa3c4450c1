"""Triangle meshes: the surface of a field, its main component, fewer faces, smooth normals."""

from __future__ import annotations

import sys

import numpy as np
import torch
from torch import Tensor

from nerf.extract import extract
from nerf.types import Mesh

__all__ = ["clean", "decimate", "extract", "main_component", "signed_volume", "smooth", "vertex_normals"]


def _arrays(mesh: Mesh) -> tuple[np.ndarray, np.ndarray]:
    return mesh.vertices.detach().cpu().numpy(), mesh.faces.detach().cpu().numpy()


def _compact(vertices: np.ndarray, faces: np.ndarray) -> Mesh:
    """A mesh of the vertices that faces use."""
    used = np.zeros(len(vertices), dtype=bool)
    used[faces.ravel()] = True
    renumbered = np.cumsum(used) - 1
    return Mesh(
        torch.from_numpy(np.ascontiguousarray(vertices[used], dtype=np.float32)),
        torch.from_numpy(renumbered[faces].astype(np.int32).reshape(-1, 3)),
    )


def _face_volumes(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Signed volume of the tetrahedra between the origin and each face. [F]"""
    a, b, c = (vertices[faces[:, k]].astype(np.float64) for k in range(3))
    return np.einsum("fi,fi->f", a, np.cross(b, c)) / 6


def signed_volume(mesh: Mesh) -> float:
    """Enclosed volume in scene units cubed; negative where faces are clockwise seen from outside."""
    return float(_face_volumes(*_arrays(mesh)).sum())


def _labels(count: int, faces: np.ndarray) -> np.ndarray:
    """A number per vertex, equal for vertices that edges connect: the lowest index among them. [V]"""
    labels = np.arange(count)
    start, end = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]]]).T
    while True:
        low = np.minimum(labels[start], labels[end])
        previous = labels.copy()
        # Hook the roots of both ends onto the lower one, then let every vertex jump to its root.
        np.minimum.at(labels, previous[start], low)
        np.minimum.at(labels, previous[end], low)
        while not np.array_equal(labels, labels[labels]):
            labels = labels[labels]
        if np.array_equal(labels, previous):
            return labels


def main_component(mesh: Mesh, share: float = 1.0) -> Mesh:
    """The connected part that encloses the most volume; floaters and the walls of closed cavities go.

    Args:
        share: Other parts stay too if they enclose at least this share of the largest volume, in (0, 1]. An object
            may consist of parts that do not touch; floaters are far smaller than those.
    """
    vertices, faces = _arrays(mesh)
    if not len(faces):
        return mesh
    label = _labels(len(vertices), faces)[faces[:, 0]]
    # Relative to a vertex of the part: the volume of a small part far from the origin keeps its digits.
    local = vertices[faces] - vertices[label][:, None]
    volume = np.bincount(label, weights=np.linalg.det(local.astype(np.float64)) / 6, minlength=len(vertices))
    keep = volume >= share * volume.max()
    return _compact(vertices, faces[keep[label]])


def clean(mesh: Mesh) -> Mesh:
    """Without faces that repeat a vertex or another face or have no area, and without unused vertices."""
    vertices, faces = _arrays(mesh)
    a, b, c = (vertices[faces[:, k]].astype(np.float64) for k in range(3))
    area = 0.5 * np.linalg.norm(np.cross(b - a, c - a), axis=1)
    longest = np.max([((p - q) ** 2).sum(1) for p, q in ((a, b), (b, c), (c, a))], axis=0, initial=0)
    # 1e-9: below what float32 positions resolve. Merely thin faces stay: without them the mesh would have cracks.
    faces = faces[area > 1e-9 * longest]
    _, first = np.unique(np.sort(faces, axis=1), axis=0, return_index=True)
    return _compact(vertices, faces[np.sort(first)])


def smooth(mesh: Mesh, iterations: int = 5) -> Mesh:
    """Taubin smoothing (1995): steps towards the neighbours' mean, each followed by a longer one back.

    Takes away the fine bumps that a distilled field has below the size of a pixel of its training pictures, and
    that show as grain under any light, without shrinking the object.

    Args:
        iterations: Pairs of steps; 0 leaves the mesh as it is.
    """
    vertices, faces = _arrays(mesh)
    edges = np.unique(np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1), axis=0)
    start, end = np.concatenate([edges, edges[:, ::-1]]).T
    count = np.maximum(np.bincount(start, minlength=len(vertices)), 1)[:, None]
    positions = vertices.astype(np.float64)
    for step in (0.5, -0.53) * iterations:  # Taubin's lambda and mu: 1 / lambda + 1 / mu = 0.1, the pass band
        sums = [np.bincount(start, weights=positions[end, k], minlength=len(vertices)) for k in range(3)]
        positions = positions + step * (np.stack(sums, axis=1) / count - positions)
    return Mesh(torch.from_numpy(positions.astype(np.float32)), mesh.faces)


def decimate(mesh: Mesh, target: int) -> Mesh:
    """At most `target` faces, by quadric error edge collapse (Garland and Heckbert 1997), cleaned.

    Without fast_simplification all faces stay, and a line on stderr says so.

    Raises:
        ValueError: `target` is below 4, the fewest faces of a closed mesh.
    """
    if target < 4:
        raise ValueError(f"--decimate_target needs at least 4 faces, got {target}")
    try:
        import fast_simplification
    except ModuleNotFoundError as error:
        print(f"the mesh keeps all its faces ({error}): pip install -r requirements.txt", file=sys.stderr, flush=True)
        return clean(mesh)
    result = mesh
    # Gently first, which keeps the mesh closed; more eagerly, and aiming lower, only if that stops above the target.
    for aggressiveness, share in ((5, 1), (7, 0.95), (10, 0.9), (12, 0.7), (14, 0.5)):
        if len(result.faces) <= target:
            break
        vertices, faces = fast_simplification.simplify(
            *_arrays(result), target_count=max(4, int(share * target)), agg=aggressiveness
        )
        result = clean(_compact(vertices, faces))
    return result


def vertex_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """Unit normals per vertex, faces weighted by their area. [V, 3], [F, 3] -> [V, 3]; (0, 0, 1) where undefined."""
    a, b, c = (vertices[faces[:, k].long()] for k in range(3))
    face_normals = torch.cross(b - a, c - a, dim=1)
    normals = torch.zeros_like(vertices)
    for k in range(3):
        normals.index_add_(0, faces[:, k].long(), face_normals)
    length = normals.norm(dim=1, keepdim=True)
    up = torch.tensor([0.0, 0.0, 1.0], dtype=normals.dtype, device=normals.device)
    return torch.where(length > 1e-20, normals / length.clamp(min=1e-20), up)
