"""Textured files: texels show the right points, files load elsewhere, nothing hangs and nothing is half written."""

from __future__ import annotations

import json
import struct
import time

import numpy as np
import pytest
import torch
import trimesh
from torch.testing import assert_close

from nerf import unwrap as unwrapping
from nerf.export import MeshOptions, save_glb, save_mesh, save_obj, save_ply
from nerf.export.files import atomic_path
from nerf.export.texture import bake, pad_texture, rasterise_uvs, seen_color
from nerf.marching_cubes import marching_cubes
from nerf.mesh import decimate
from nerf.types import Mesh
from nerf.unwrap import packed_uvs, unwrap
from scenes import COLOUR, Ball


def ball(faces=600):
    g = np.linspace(-1, 1, 25)
    vertices, triangles = marching_cubes(0.7 - np.sqrt(g[:, None, None] ** 2 + g[None, :, None] ** 2 + g**2))
    mesh = Mesh(torch.from_numpy(vertices / 12 - 1).float(), torch.from_numpy(triangles))
    return decimate(mesh, faces)


def position_color(positions, normals):
    return 0.5 + 0.5 * positions


def textured_ball(size=256):
    mesh, _ = unwrap(ball(), resolution=size, max_faces=0)
    return bake(mesh, position_color, size=size, progress=False)


def sample(texture, uvs):
    """Bilinear, v from the bottom, as glTF and OBJ viewers do it. [H, W, 3], [M, 2] -> [M, 3]"""
    grid = torch.stack([2 * uvs[:, 0] - 1, 1 - 2 * uvs[:, 1]], -1)
    picture = texture.permute(2, 0, 1)[None]
    return torch.nn.functional.grid_sample(picture, grid[None, None], align_corners=False)[0, :, 0].T


def uv_areas(uvs):
    a, b = uvs[:, 1] - uvs[:, 0], uvs[:, 2] - uvs[:, 0]
    return 0.5 * np.abs(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0])


@pytest.mark.parametrize("max_faces", [0, 10_000], ids=["packed", "xatlas"])
def test_a_viewer_sees_the_colour_of_the_point(max_faces):
    mesh, note = unwrap(ball(), resolution=256, max_faces=max_faces)
    assert (note is None) == (max_faces > 0)
    mesh = bake(mesh, position_color, size=256, progress=False)
    share = torch.rand(len(mesh.faces), 8, 3, 1, generator=torch.Generator().manual_seed(0))
    share = share / share.sum(2, keepdim=True)
    points = (share * mesh.vertices[mesh.faces.long()][:, None]).sum(2).view(-1, 3)
    uvs = (share * mesh.uvs[:, None]).sum(2).view(-1, 2)
    error = (sample(mesh.texture, uvs) - position_color(points, None)).abs().amax(1)
    # A texel is at most 1/100 unit here, half of that as colour; at the sides of a triangle the clamped texels around.
    assert error.max() < 0.02 and error.mean() < 0.002


@pytest.mark.parametrize("faces", [1, 2, 31, 257])
def test_packed_triangles_do_not_overlap_and_keep_their_area(faces):
    mesh = ball(257)
    uvs = packed_uvs(mesh.vertices.numpy(), mesh.faces.numpy()[:faces], 256)
    assert uvs.min() >= 0 and uvs.max() <= 1
    assert uv_areas(uvs).min() * 256**2 > 50  # texels
    # Every texel centre lies in one triangle at most.
    p = (np.stack(np.meshgrid(np.arange(256), np.arange(256)), -1).reshape(-1, 2) + 0.5) / 256
    inside = np.zeros(len(p), dtype=int)
    for a, b, c in uvs.astype(np.float64):
        signs = [(q - o)[0] * (p - o)[:, 1] - (q - o)[1] * (p - o)[:, 0] for o, q in ((a, b), (b, c), (c, a))]
        inside += np.all(np.array(signs) > 0, axis=0) | np.all(np.array(signs) < 0, axis=0)
    assert inside.max() == 1


def test_rasterising_finds_the_texels_whose_centres_a_triangle_covers():
    uvs = np.array([[[0.1, 0.2], [0.83, 0.31], [0.4, 0.9]]], dtype=np.float32)
    texel, face, weights = rasterise_uvs(uvs, 32)
    centre = np.stack([(texel % 32 + 0.5) / 32, 1 - (texel // 32 + 0.5) / 32], 1)
    # Brute force: barycentrics of every texel centre by solving the linear system.
    system = np.vstack([uvs[0].T, np.ones(3)]).astype(np.float64)
    everywhere = np.stack(np.meshgrid(np.arange(32), np.arange(32)), -1).reshape(-1, 2)
    points = np.stack([(everywhere[:, 0] + 0.5) / 32, 1 - (everywhere[:, 1] + 0.5) / 32, np.ones(1024)])
    inside = np.flatnonzero((np.linalg.solve(system, points) >= 0).all(0))
    assert set(inside) <= set(texel)
    within = np.isin(texel, inside)
    assert_close(weights[within] @ uvs[0].astype(np.float64), centre[within])
    # The border is there, at most BORDER and a corner wide.
    outside = np.linalg.norm(weights @ uvs[0].astype(np.float64) - centre, axis=1) * 32
    assert (~within).sum() > 50 and outside.max() < 4


def test_padding_takes_the_nearest_colour():
    picture, covered = np.zeros((16, 16, 3), np.float32), np.zeros((16, 16), bool)
    picture[4, 4], picture[12, 12] = (1, 0, 0), (0, 1, 0)
    covered[4, 4] = covered[12, 12] = True
    padded = pad_texture(picture, covered)
    assert padded[0, 0].tolist() == padded[5, 5].tolist() == [1, 0, 0]
    assert padded[15, 15].tolist() == [0, 1, 0]


def test_the_colour_seen_is_that_of_the_volume_and_not_of_the_haze_before_it():
    class Coated(Ball):
        """Opaque inside; a haze around it that has another colour."""

        def query(self, x):
            inside = (x.norm(dim=1) < 0.5).float()[:, None]
            sigma = 1.0 + 400 * inside[:, 0]
            return sigma, inside * torch.tensor(COLOUR) + (1 - inside) * torch.tensor([1.0, 0.0, 1.0])

    up = torch.tensor([[0.0, 1.0, 0.0]])
    color = seen_color(Coated(), outside=0.02, inside=0.08)(0.52 * up, up)
    # Four samples of 0.025 at 0.5275, 0.5025, 0.4775 and 0.4525: two in the haze, each 1 - exp(-0.025) opaque.
    haze = 1 - np.exp(-0.05)
    expected = haze * torch.tensor([1.0, 0.0, 1.0]) + (1 - haze) * torch.tensor(COLOUR)
    assert_close(color[0], expected.float(), atol=1e-4, rtol=0)


def test_xatlas_is_stopped_at_its_time_limit():
    begin = time.monotonic()
    mesh, note = unwrap(ball(), seconds=0.01)
    assert time.monotonic() - begin < 5
    assert "longer than 0.01 s" in note and "\n" not in note
    assert mesh.uvs.shape == (len(mesh.faces), 3, 2)


def test_a_crash_of_xatlas_is_survived(monkeypatch):
    monkeypatch.setattr(unwrapping.sys, "executable", "/bin/false")
    mesh, note = unwrap(ball(60))
    assert "failed" in note and mesh.uvs is not None


def read_glb(path):
    data = path.read_bytes()
    magic, version, length = struct.unpack_from("<4sII", data)
    assert (magic, version, length) == (b"glTF", 2, len(data))
    size, kind = struct.unpack_from("<I4s", data, 12)
    assert kind == b"JSON" and size % 4 == 0
    return json.loads(data[20 : 20 + size])


def test_glb_loads_elsewhere_with_its_geometry_and_texture(tmp_path):
    mesh = textured_ball()
    loaded = trimesh.load(save_glb(tmp_path / "mesh.glb", mesh), force="mesh", process=False)
    assert_close(np.array(loaded.triangles), mesh.vertices[mesh.faces.long()].double().numpy())
    picture = np.asarray(loaded.visual.material.baseColorTexture.convert("RGB"))
    assert_close(picture / 255.0, mesh.texture.double().numpy(), atol=0.51 / 255, rtol=0)
    assert_close(loaded.visual.uv[loaded.faces], mesh.uvs.double().numpy(), atol=1e-6, rtol=0)  # 1 - (1 - v)
    colors = sample(mesh.texture, torch.from_numpy(loaded.visual.uv).float())
    assert_close(colors, position_color(torch.from_numpy(np.array(loaded.vertices)).float(), None), atol=0.03, rtol=0)


def test_glb_has_the_material_and_the_limits_that_viewers_need(tmp_path):
    mesh = textured_ball()
    document = read_glb(save_glb(tmp_path / "mesh.glb", mesh))
    surface = document["materials"][0]["pbrMetallicRoughness"]
    assert surface["metallicFactor"] == 0 and surface["baseColorTexture"] == {"index": 0}
    attributes = document["meshes"][0]["primitives"][0]["attributes"]
    assert set(attributes) == {"POSITION", "NORMAL", "TEXCOORD_0"}
    position = document["accessors"][attributes["POSITION"]]
    assert position["min"] == mesh.vertices.amin(0).tolist() and position["max"] == mesh.vertices.amax(0).tolist()
    assert all(view["byteOffset"] % 4 == 0 for view in document["bufferViews"])


def test_obj_loads_elsewhere_with_its_texture_and_full_brightness(tmp_path):
    mesh = textured_ball()
    paths = save_obj(tmp_path, mesh)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(p.name for p in paths)
    assert {p.name for p in paths} == {"albedo.png", "mesh.mtl", "mesh.obj"}
    loaded = trimesh.load(tmp_path / "mesh.obj", force="mesh", process=False)
    assert_close(
        np.array(loaded.triangles), mesh.vertices[mesh.faces.long()].double().numpy(), atol=1e-6, rtol=0
    )  # 6 decimals
    assert_close(loaded.visual.uv[loaded.faces], mesh.uvs.double().numpy(), atol=1e-6, rtol=0)
    assert loaded.visual.material.image.size == (256, 256)
    material = (tmp_path / "mesh.mtl").read_text().splitlines()
    assert "Kd 1 1 1" in material and "map_Kd albedo.png" in material
    assert not any(line.startswith("Tr") for line in material)


def test_ply_loads_elsewhere_with_its_colours(tmp_path):
    mesh = textured_ball()
    loaded = trimesh.load(save_ply(tmp_path / "mesh.ply", mesh), process=False)
    assert_close(np.array(loaded.vertices), mesh.vertices.double().numpy())
    assert np.array_equal(loaded.faces, mesh.faces.numpy())
    expected = position_color(mesh.vertices, None).double().numpy() * 255
    assert_close(loaded.visual.vertex_colors[:, :3].astype(float), expected, atol=8, rtol=0)  # corners of a few texels


@pytest.mark.parametrize("save", ["obj", "glb", "ply"])
def test_meshes_without_texture_are_written_too(tmp_path, save):
    mesh = ball(60)
    writer = {"obj": lambda m: save_obj(tmp_path, m)[-1], "glb": None, "ply": None}[save]
    writer = writer or (lambda m: {"glb": save_glb, "ply": save_ply}[save](tmp_path / f"mesh.{save}", m))
    assert len(trimesh.load(writer(mesh), force="mesh", process=False).faces) == len(mesh.faces)


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), atomic_path(tmp_path / "a.bin") as partial:
        partial.write_bytes(b"half")
        raise KeyboardInterrupt
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]
    assert (tmp_path / "a.bin").read_bytes() == b"old"


def test_save_mesh_makes_a_textured_object_of_a_field(tmp_path):
    options = MeshOptions(resolution=48, decimate_target=1000, texture_size=128, formats=("obj", "glb", "ply"))
    report = save_mesh(Ball(0.5, softness=0.01), tmp_path / "mesh", options=options, progress=False)
    names = {p.name for p in (tmp_path / "mesh").iterdir()}
    assert names == {"albedo.png", "mesh.mtl", "mesh.obj", "mesh.glb", "mesh.ply"}
    loaded = trimesh.load(tmp_path / "mesh" / "mesh.glb", force="mesh")
    assert len(loaded.faces) == report["faces"] <= 1000
    # sigma = 400 sigmoid(d / 0.01): rays see half a little outside of the middle of the slope.
    radius = np.linalg.norm(loaded.vertices, axis=1)
    assert radius.min() > 0.49 and radius.max() < 0.56
    picture = np.asarray(loaded.visual.material.baseColorTexture.convert("RGB")) / 255.0
    assert_close(picture, np.full_like(picture, 1) * COLOUR, atol=0.6 / 255, rtol=0)
    assert report["unwrap"] == "xatlas" and all(report[f"seconds_{p}"] >= 0 for p in ("extract", "texture", "write"))


def test_save_mesh_of_an_empty_scene_writes_nothing(tmp_path):
    with pytest.raises(ValueError, match="density min/mean/max"):
        save_mesh(Ball(sigma=0.0), tmp_path / "mesh", options=MeshOptions(resolution=16), progress=False)
    assert not (tmp_path / "mesh").exists()


@pytest.mark.parametrize("bad", [{"resolution": 4}, {"decimate_target": 3}, {"formats": ("stl",)}])
def test_bad_mesh_options_are_refused(bad):
    with pytest.raises(ValueError, match="got"):
        MeshOptions(**bad)
