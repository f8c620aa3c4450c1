"""Binary PLY with normals and a colour per vertex, for tools that read no textures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from nerf.export.files import to_uint8, write_bytes
from nerf.mesh import vertex_normals
from nerf.types import Mesh


def vertex_colors(mesh: Mesh) -> np.ndarray | None:
    """The texture at each vertex, averaged over its corners, uint8 [V, 3]; None without a texture."""
    if mesh.uvs is None or mesh.texture is None:
        return None
    picture = mesh.texture.detach().cpu().float()
    height, width = picture.shape[:2]
    uvs = mesh.uvs.detach().cpu().reshape(-1, 2)
    column = (uvs[:, 0] * width).long().clamp(0, width - 1)
    row = ((1 - uvs[:, 1]) * height).long().clamp(0, height - 1)
    vertex = mesh.faces.detach().cpu().reshape(-1).long()
    total = torch.zeros(len(mesh.vertices), 3).index_add_(0, vertex, picture[row, column])
    count = torch.bincount(vertex, minlength=len(mesh.vertices)).clamp(min=1)
    return to_uint8(total / count[:, None])


def save_ply(path: Path | str, mesh: Mesh) -> Path:
    """Write a mesh as one .ply file."""
    vertices, faces = mesh.vertices.detach().cpu().float(), mesh.faces.detach().cpu()
    colors = vertex_colors(mesh)
    fields = [(name, "<f4") for name in ("x", "y", "z", "nx", "ny", "nz")]
    columns = [*vertices.numpy().T, *vertex_normals(vertices, faces).numpy().T]
    if colors is not None:
        fields += [(name, "u1") for name in ("red", "green", "blue")]
        columns += list(colors.T)
    rows = np.empty(len(vertices), dtype=fields)
    for (name, _), column in zip(fields, columns, strict=True):
        rows[name] = column
    triangles = np.empty(len(faces), dtype=[("count", "u1"), ("index", "<i4", 3)])
    triangles["count"], triangles["index"] = 3, faces.numpy()
    header = ["ply", "format binary_little_endian 1.0", "comment Tadpole", f"element vertex {len(vertices)}"]
    header += [f"property {'float' if kind == '<f4' else 'uchar'} {name}" for name, kind in fields]
    header += [f"element face {len(faces)}", "property list uchar int vertex_indices", "end_header", ""]
    write_bytes(path, "\n".join(header).encode() + rows.tobytes() + triangles.tobytes())
    return Path(path)
