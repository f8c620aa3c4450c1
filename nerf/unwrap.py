"""Texture coordinates for a mesh: xatlas in a process of its own that can be stopped, or a packing that cannot fail.

xatlas makes large charts with few seams, but its time grows faster than the number of faces (50k faces: 12 s,
millions: hours) and it cannot be interrupted from within. Above a face cap, past a time limit or after a crash,
triangles are packed in pairs into a grid of equal squares instead: more seams, the same colours, a few milliseconds.
"""

from __future__ import annotations

import math
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # the worker process must not wait for torch
    from nerf.types import Mesh

GUTTER = 3  # texels between charts: bilinear sampling reads one beyond the edge, the first two mipmaps a few more


def xatlas_uvs(vertices: np.ndarray, faces: np.ndarray, resolution: int) -> np.ndarray:
    """Charts made and packed by xatlas into one square texture of `resolution` texels. [F, 3, 2] in [0, 1]"""
    import xatlas

    atlas = xatlas.Atlas()
    atlas.add_mesh(vertices.astype(np.float32), faces.astype(np.uint32))
    packing = xatlas.PackOptions()
    # The page comes out up to a third larger than asked for, and packing again costs as much as the charts did:
    # the page is scaled to the texture instead, with a gutter that is still wide enough afterwards.
    packing.resolution, packing.padding, packing.bilinear = resolution, GUTTER + 1, True
    atlas.generate(pack_options=packing)
    if atlas.atlas_count != 1:
        raise RuntimeError("the charts do not fit one texture")
    _, corners, uvs = atlas.get_mesh(0)
    texels = uvs[corners.astype(np.int64)] * np.array([atlas.width, atlas.height])
    return (texels / max(atlas.width, atlas.height)).astype(np.float32)


def _work(folder: str, resolution: str) -> None:
    """What the worker process runs: mesh.npz -> uvs.npy in `folder`."""
    mesh = np.load(Path(folder) / "mesh.npz")
    np.save(Path(folder) / "uvs.npy", xatlas_uvs(mesh["vertices"], mesh["faces"], int(resolution)))


def _xatlas_in_process(vertices: np.ndarray, faces: np.ndarray, resolution: int, seconds: float) -> np.ndarray | str:
    """`xatlas_uvs` in a process that is killed after `seconds`; a string says why there is no result."""
    root = Path(__file__).resolve().parent.parent
    # -c and not -m or a path: run as a script, nerf/types.py would hide the standard library's.
    code = "import sys; sys.path.insert(0, sys.argv[1]); from nerf.unwrap import _work; _work(*sys.argv[2:])"
    with tempfile.TemporaryDirectory(prefix="tadpole-unwrap-") as folder:
        np.savez(Path(folder) / "mesh.npz", vertices=vertices, faces=faces)
        command = [sys.executable, "-c", code, str(root), folder, str(resolution)]
        try:
            # run() kills the process on a timeout, and on Ctrl-C too.
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds, check=False)
        except subprocess.TimeoutExpired:
            return f"took longer than {seconds:g} s"
        if done.returncode:
            lines = done.stderr.decode(errors="replace").strip().splitlines()
            return f"failed ({lines[-1] if lines else f'exit status {done.returncode}'})"
        uvs = np.load(Path(folder) / "uvs.npy")
    if uvs.shape != (len(faces), 3, 2) or not (np.isfinite(uvs).all() and uvs.min() >= 0 and uvs.max() <= 1):
        return "returned coordinates outside of the texture"
    return uvs


def packed_uvs(vertices: np.ndarray, faces: np.ndarray, resolution: int) -> np.ndarray:
    """Two triangles to each square of a grid, in pairs of similar size, longest edge on the diagonal. [F, 3, 2]

    Needs no topology and cannot fail. A square loses up to `GUTTER` texels per axis to the space between triangles;
    with fewer than 6 texels per square the colours of neighbours begin to mix.
    """
    squares = math.ceil(math.sqrt(math.ceil(len(faces) / 2)))
    side = resolution / max(squares, 1)
    edges = np.stack([vertices[faces[:, (k + 2) % 3]] - vertices[faces[:, (k + 1) % 3]] for k in range(3)], axis=1)
    opposite = np.linalg.norm(edges, axis=2).argmax(axis=1)  # the corner that gets the right angle
    place = np.arange(len(faces))
    cell = place // 2
    origin = np.stack([cell % max(squares, 1), cell // max(squares, 1)], axis=1) * side
    # Lower left and upper right triangle of a square, counter-clockwise from the right angle, apart by the gutter.
    edge = min(1.0, 0.1 * side)
    gap = min(GUTTER, 0.3 * side)
    legs = side - 2 * edge - gap
    lower = np.array([[0, 0], [legs, 0], [0, legs]]) + edge
    upper = side - lower
    triangle = np.where((place % 2 == 0)[:, None, None], lower, upper)
    uvs = np.empty((len(faces), 3, 2))
    for k in range(3):
        uvs[place, (opposite + k) % 3] = origin + triangle[:, k]
    return (uvs / resolution).clip(0, 1).astype(np.float32)


def unwrap(
    mesh: Mesh, *, resolution: int = 2048, max_faces: int = 60_000, seconds: float = 60.0
) -> tuple[Mesh, str | None]:
    """The mesh with texture coordinates for a square texture of `resolution` texels. Always succeeds.

    Args:
        max_faces: Meshes with more faces are not given to xatlas.
        seconds: Wall-clock limit for xatlas.

    Returns:
        The mesh with `uvs`, and None or one line that says why xatlas did not make them.
    """
    import torch

    vertices, faces = mesh.vertices.detach().cpu().numpy(), mesh.faces.detach().cpu().numpy()
    if len(faces) > max_faces:
        uvs = f"was not asked: {len(faces)} faces are more than {max_faces}"
    else:
        uvs = _xatlas_in_process(vertices, faces, resolution, seconds)
    note = None
    if isinstance(uvs, str):
        note = f"xatlas {uvs}; triangles packed one by one instead"
        uvs = packed_uvs(vertices, faces, resolution)
    return replace(mesh, uvs=torch.from_numpy(uvs)), note
