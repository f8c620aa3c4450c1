"""Wavefront OBJ with a material and its picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nerf.export.files import png_bytes, to_uint8, write_bytes
from nerf.mesh import vertex_normals
from nerf.types import Mesh

# Kd 1: viewers multiply it with the picture. No Tr: some read it as opacity, others as transparency; d is clear.
MATERIAL = """newmtl surface
Ka 1 1 1
Kd 1 1 1
Ks 0 0 0
d 1
illum 1
"""


def _lines(prefix: str, rows: np.ndarray) -> str:
    """One line per row of numbers, six decimals. [N, K]"""
    pattern = prefix + " %.6f" * rows.shape[1] + "\n"
    return (pattern * len(rows)) % tuple(rows.ravel().tolist())


def save_obj(folder: Path | str, mesh: Mesh, name: str = "mesh") -> list[Path]:
    """Write `name`.obj, `name`.mtl and, with a texture, albedo.png; returns their paths, the OBJ last.

    Each file is complete or not there, and the OBJ comes after the files it names.
    """
    folder = Path(folder)
    textured = mesh.texture is not None and mesh.uvs is not None
    paths = [folder / f"{name}.mtl", folder / f"{name}.obj"]
    if textured:
        paths.insert(0, folder / "albedo.png")
        write_bytes(paths[0], png_bytes(to_uint8(mesh.texture)))
    write_bytes(folder / f"{name}.mtl", (MATERIAL + "map_Kd albedo.png\n" * textured).encode())

    vertices, faces = mesh.vertices.detach().cpu(), mesh.faces.detach().cpu()
    normals = vertex_normals(vertices, faces)
    index = faces.numpy().astype(np.int64) + 1
    text = [f"mtllib {name}.mtl\no {name}\n", _lines("v", vertices.numpy()), _lines("vn", normals.numpy())]
    if mesh.uvs is not None:
        uvs, corner = np.unique(mesh.uvs.detach().cpu().numpy().reshape(-1, 2), axis=0, return_inverse=True)
        text.append(_lines("vt", uvs))
        index = np.stack([index, corner.reshape(-1, 3) + 1, index], axis=2)
        pattern = "f %d/%d/%d %d/%d/%d %d/%d/%d\n"
    else:
        index = np.stack([index, index], axis=2)
        pattern = "f %d//%d %d//%d %d//%d\n"
    text.append("usemtl surface\n" + (pattern * len(index)) % tuple(index.ravel().tolist()))
    write_bytes(folder / f"{name}.obj", "".join(text).encode())
    return paths
