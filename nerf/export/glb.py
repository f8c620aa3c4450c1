"""glTF 2.0 binary: one mesh, one material, its picture inside (Khronos glTF 2.0, sections 3.6 to 3.9 and 4)."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import torch

from nerf.export.files import png_bytes, to_uint8, write_bytes
from nerf.mesh import vertex_normals
from nerf.types import Mesh

FLOAT, UINT32 = 5126, 5125  # componentType
VERTEX_DATA, INDEX_DATA = 34962, 34963  # bufferView.target
LINEAR, LINEAR_MIPMAP_LINEAR, CLAMP_TO_EDGE = 9729, 9987, 33071  # sampler


def split_at_seams(mesh: Mesh) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray]:
    """One vertex per pair of vertex and texture coordinate, as the GPU wants them.

    Returns:
        positions [P, 3], unit normals [P, 3] (of the unsplit mesh: seams stay invisible), uvs [P, 2] or None,
        faces [F, 3].
    """
    vertices, faces = mesh.vertices.detach().cpu().float(), mesh.faces.detach().cpu().numpy()
    normals = vertex_normals(vertices, torch.from_numpy(faces)).numpy()
    if mesh.uvs is None:
        return vertices.numpy(), normals, None, faces
    uvs = mesh.uvs.detach().cpu().float().numpy().reshape(-1, 2)
    key = np.column_stack([faces.reshape(-1).astype(np.float64), uvs])
    unique, corner = np.unique(key, axis=0, return_inverse=True)
    vertex = unique[:, 0].astype(np.int64)
    return vertices.numpy()[vertex], normals[vertex], unique[:, 1:].astype(np.float32), corner.reshape(-1, 3)


def save_glb(path: Path | str, mesh: Mesh) -> Path:
    """Write a mesh as one .glb file, with its texture if it has one.

    The material is fully rough and not metallic: under any light the object shows its own colours.
    """
    positions, normals, uvs, faces = split_at_seams(mesh)
    blob, views, accessors = bytearray(), [], []

    def add_view(data: bytes, **fields) -> int:
        views.append({"buffer": 0, "byteOffset": len(blob), "byteLength": len(data), **fields})
        blob.extend(data + b"\0" * (-len(data) % 4))
        return len(views) - 1

    def add_accessor(array: np.ndarray, kind: str, component: int, target: int, **fields) -> int:
        view = add_view(np.ascontiguousarray(array).tobytes(), target=target)
        count = array.size if kind == "SCALAR" else len(array)
        accessors.append({"bufferView": view, "componentType": component, "count": count, "type": kind, **fields})
        return len(accessors) - 1

    limits = {"min": positions.min(axis=0).tolist(), "max": positions.max(axis=0).tolist()}
    attributes = {
        "POSITION": add_accessor(positions.astype("<f4"), "VEC3", FLOAT, VERTEX_DATA, **limits),
        "NORMAL": add_accessor(normals.astype("<f4"), "VEC3", FLOAT, VERTEX_DATA),
    }
    surface = {"metallicFactor": 0.0, "roughnessFactor": 1.0}
    document = {
        "asset": {"version": "2.0", "generator": "Tadpole"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": "mesh"}],
        "materials": [{"name": "surface", "pbrMetallicRoughness": surface}],
    }
    if uvs is not None and mesh.texture is not None:
        flipped = np.stack([uvs[:, 0], 1 - uvs[:, 1]], axis=1)  # glTF counts v from the top
        attributes["TEXCOORD_0"] = add_accessor(flipped.astype("<f4"), "VEC2", FLOAT, VERTEX_DATA)
        picture = add_view(png_bytes(to_uint8(mesh.texture)))
        surface["baseColorTexture"] = {"index": 0}
        document["textures"] = [{"source": 0, "sampler": 0}]
        document["images"] = [{"bufferView": picture, "mimeType": "image/png", "name": "albedo"}]
        document["samplers"] = [
            {"magFilter": LINEAR, "minFilter": LINEAR_MIPMAP_LINEAR, "wrapS": CLAMP_TO_EDGE, "wrapT": CLAMP_TO_EDGE}
        ]
    indices = add_accessor(faces.astype("<u4"), "SCALAR", UINT32, INDEX_DATA)
    document["meshes"] = [{"primitives": [{"attributes": attributes, "indices": indices, "material": 0}]}]
    document |= {"accessors": accessors, "bufferViews": views, "buffers": [{"byteLength": len(blob)}]}

    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(blob), b"BIN\0") + bytes(blob)
    write_bytes(path, struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks)
    return Path(path)
