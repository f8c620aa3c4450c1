"""Surfaces: closed and oriented, found where the field has them, at less than the full price."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from nerf.extract import COARSE, DIRECTIONS, DensityVolume, exposure, find_threshold, occupied_cells
from nerf.marching_cubes import marching_cubes, triangle_table
from nerf.mesh import clean, decimate, extract, main_component, signed_volume, smooth, vertex_normals
from nerf.occupancy import OccupancyGrid
from nerf.types import Mesh
from scenes import Ball


def directed_edges(faces):
    """A number per directed edge, and the number of the same edge the other way. [3F], [3F]"""
    start, end = np.asarray(faces, dtype=np.int64)[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2).T
    size = max(start.max(), end.max()) + 1
    return start * size + end, end * size + start


def assert_closed(faces):
    """Every edge has exactly two faces, which run along it in opposite directions."""
    there, back = map(np.sort, directed_edges(faces))
    assert (np.diff(there) > 0).all(), "two faces run along an edge in the same direction"
    assert np.array_equal(there, back), "an edge has a face on one side only"


def euler(faces):
    faces = np.asarray(faces)
    return len(np.unique(faces)) - len(directed_edges(faces)[0]) // 2 + len(faces)


def ball_samples(n, radius):
    g = np.linspace(-1, 1, n)
    return radius - np.sqrt(g[:, None, None] ** 2 + g[None, :, None] ** 2 + g[None, None] ** 2)


def volume_of(vertices, faces):
    a, b, c = (np.asarray(vertices, dtype=np.float64)[np.asarray(faces)[:, k]] for k in range(3))
    return np.einsum("fi,fi->", a, np.cross(b, c)) / 6


def ball_mesh(n=33, radius=0.7, centre=(0.0, 0.0, 0.0)):
    vertices, faces = marching_cubes(ball_samples(n, radius))
    vertices = vertices * (2 / (n - 1)) - 1 + np.array(centre)
    return Mesh(torch.from_numpy(vertices).float(), torch.from_numpy(faces))


def join(*meshes):
    offsets = np.cumsum([0] + [len(m.vertices) for m in meshes[:-1]])
    faces = [m.faces + int(o) for m, o in zip(meshes, offsets, strict=True)]
    return Mesh(torch.cat([m.vertices for m in meshes]), torch.cat(faces))


def test_marching_cubes_of_a_ball_is_a_sphere():
    mesh = ball_mesh(65)
    assert_closed(mesh.faces)
    assert euler(mesh.faces) == 2
    # 1 %: chords cut off (h / r)^2 / 4 = 0.05 % of the radius at this spacing. Positive: faces look outwards.
    assert volume_of(mesh.vertices, mesh.faces) == pytest.approx(4 / 3 * math.pi * 0.7**3, rel=0.01)


def test_marching_cubes_of_white_noise_is_a_closed_manifold():
    # Every one of the 256 cases, ambiguous faces included, next to every other.
    vertices, faces = marching_cubes(np.random.default_rng(0).normal(size=(18, 19, 20)))
    assert_closed(faces)
    assert len(np.unique(faces)) == len(vertices)


def test_marching_cubes_vertices_are_welded_and_no_face_is_degenerate():
    vertices, faces = marching_cubes(np.random.default_rng(1).normal(size=(20, 20, 20)))
    assert len(np.unique(vertices, axis=0)) == len(vertices)
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    assert np.linalg.norm(np.cross(b - a, c - a), axis=1).min() > 0


def test_marching_cubes_closes_what_touches_the_border():
    vertices, faces = marching_cubes(np.ones((5, 6, 7)))
    assert_closed(faces)
    assert euler(faces) == 2
    # 2e-2: bevelled corners and the thousandth of a cell the sides lie beyond the samples.
    assert volume_of(vertices, faces) == pytest.approx(4 * 5 * 6, rel=2e-2)


def test_marching_cubes_places_a_plane_exactly():
    x = np.arange(6.0)[:, None, None] * np.ones((1, 6, 6))
    vertices, faces = marching_cubes(2.3 - x)
    inner = np.all((vertices[:, 1:] > 0) & (vertices[:, 1:] < 5), axis=1) & (vertices[:, 0] > 0.5)
    assert inner.any()
    assert_close(vertices[inner, 0], np.full(inner.sum(), 2.3))


def test_marching_cubes_of_nothing_is_empty():
    vertices, faces = marching_cubes(-np.ones((4, 4, 4)))
    assert vertices.shape == (0, 3) and faces.shape == (0, 3)


def test_simple_cases_of_the_table_have_the_known_number_of_triangles():
    counts, _ = triangle_table()
    assert counts[0] == counts[255] == 0
    # One corner inside or outside: one triangle; half the cell: two.
    assert all(counts[1 << c] == counts[255 ^ (1 << c)] == 1 for c in range(8))
    assert counts[0b00001111] == counts[0b11110000] == 2


def blobs_with_rod(x):
    """Density of two balls joined by a rod half as thick as a cell of the first pass."""
    centres = torch.tensor([[0.45, 0.0, 0.0], [-0.45, 0.1, 0.0]])
    balls = (torch.cdist(x, centres) - 0.25).amin(1)
    rod = torch.maximum((x[:, 1:] - 0.05).norm(dim=1) - 0.25 / COARSE, x[:, 0].abs() - 0.9)
    return 300 * torch.sigmoid(-150 * torch.minimum(balls, rod))


def full_samples(density_fn, cells):
    g = torch.linspace(-1, 1, cells + 1)
    return density_fn(torch.cartesian_prod(g, g, g)).view((cells + 1,) * 3).numpy()


def test_refined_extraction_finds_the_surface_of_the_full_evaluation():
    volume = DensityVolume(blobs_with_rod, resolution=2 * COARSE, bound=1.0, progress=False)
    volume.refine(10.0)
    full = full_samples(blobs_with_rod, 2 * COARSE)
    # The same cells hold surface, the thin rod's included, so both make the same mesh.
    np.testing.assert_array_equal(volume.values > 10, full > 10)
    assert volume.queries < 0.35 * full.size


def test_extraction_at_256_asks_for_a_small_part_of_the_points():
    volume = DensityVolume(Ball(0.5, softness=0.01).density, resolution=256, bound=1.0, progress=False)
    volume.refine(10.0)
    assert volume.values.shape == (257, 257, 257)
    assert volume.queries < 0.1 * 257**3


def test_vertices_of_a_hard_surface_lie_on_it():
    mesh = extract(Ball(0.5, softness=0.002).density, resolution=48, bound=1.0, progress=False)
    radius = mesh.vertices.norm(dim=1)
    # A cell is 0.042 wide; the density climbs from 1 to 399 of 400 within 0.5 +- 0.012.
    assert_close(radius, torch.full_like(radius, 0.5), atol=0.012, rtol=0)
    assert_closed(mesh.faces)
    assert signed_volume(mesh) > 0


def test_exposure_is_the_mean_transmittance_along_26_ways_out():
    rng, n, spacing = np.random.default_rng(0), 5, 0.3
    density = rng.exponential(1.0, (n, n, n)).astype(np.float32)
    expected = np.zeros(density.shape)
    for point in np.ndindex(density.shape):
        for way in DIRECTIONS:
            at, depth = np.array(point), 0.0
            while ((at >= 0) & (at < n)).all():  # trapezoids; outside there is nothing
                after = at + way
                inside = ((after >= 0) & (after < n)).all()
                ends = density[tuple(at)] + (density[tuple(after)] if inside else 0.0)
                depth += 0.5 * ends * spacing * np.linalg.norm(way)
                at = after
            expected[point] += np.exp(-depth) / 26
    np.testing.assert_allclose(exposure(density, spacing), expected, atol=1e-6)


def test_pores_and_cavities_of_a_crust_are_no_surface():
    ball = Ball(0.6, sigma=300.0, softness=0.02)

    def porous(x):
        holes = torch.sin(40 * x).prod(1) > 0.2  # through and through
        return ball.density(x) * (x.norm(dim=1) > 0.4) * ~holes

    mesh = main_component(extract(porous, resolution=64, bound=1.0, progress=False))
    level_set = main_component(Mesh(*map(torch.from_numpy, marching_cubes(full_samples(porous, 64) - 30.0))))
    assert euler(level_set.faces) < -20
    assert euler(mesh.faces) == 2
    assert mesh.vertices.norm(dim=1).min() > 0.5


@pytest.mark.parametrize("sigma", [5.0, 50.0, 5000.0])
def test_found_threshold_has_the_silhouette_that_rays_see(sigma):
    ball = Ball(0.5, sigma=sigma, softness=0.03)
    mesh = extract(ball.density, resolution=64, bound=1.0, progress=False)
    # Oracle: on a parallel ray at distance d from the axis, opacity 1 - exp(-integral) is one half at the outline.
    z = torch.linspace(-1, 1, 4001)
    d = torch.linspace(0.2, 0.8, 1201)
    points = torch.stack(torch.broadcast_tensors(d[:, None], torch.zeros(()), z), -1)
    depth = torch.trapezoid(ball.density(points.reshape(-1, 3)).view(len(d), -1), z, dim=1)
    outline = d[int((1 - torch.exp(-depth) > 0.5).sum()) - 1]
    # Half a cell of the grid the threshold was found on.
    assert mesh.vertices.norm(dim=1).mean().item() == pytest.approx(outline.item(), abs=0.5 * 2 / COARSE)


def test_found_threshold_does_not_depend_on_the_unit_of_length():
    volume = full_samples(Ball(0.5, softness=0.03).density, 32)
    assert find_threshold(volume * 10, 0.1 * 2 / 32) == pytest.approx(10 * find_threshold(volume, 2 / 32))


def test_a_translucent_object_still_has_a_mesh():
    mesh = extract(Ball(0.5, sigma=0.3, softness=0.02).density, resolution=32, bound=1.0, progress=False)
    assert euler(main_component(mesh).faces) == 2


def test_an_empty_scene_is_an_error_with_its_densities():
    with pytest.raises(ValueError, match=r"empty: density min/mean/max = 0.001/0.001/0.001") as error:
        extract(lambda x: torch.full((len(x),), 1e-3), resolution=16, bound=1.0, progress=False)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_field_that_is_not_finite_is_an_error(value):
    with pytest.raises(ValueError, match="NaN or inf"):
        extract(lambda x: torch.full((len(x),), value), resolution=16, bound=1.0, progress=False)


def test_unoccupied_cells_are_not_asked_for_and_empty():
    left, right = Ball(0.2, centre=(-0.5, 0.0, 0.0)), Ball(0.2, centre=(0.5, 0.0, 0.0))
    asked = []

    def density(x):
        asked.append(x)
        return torch.maximum(left.density(x), right.density(x))

    occupied = torch.zeros(16, 16, 16, dtype=torch.bool)
    occupied[8:] = True  # x > 0; neighbouring cells, to -1/8, still count
    mesh = extract(density, resolution=32, bound=1.0, occupied=occupied, progress=False)
    assert mesh.vertices[:, 0].min() > 0.2
    assert torch.cat(asked)[:, 0].min() >= -1 / 8


def test_occupied_cells_are_those_of_the_grid():
    grid = OccupancyGrid(1.0, resolution=16)
    assert occupied_cells(grid).all()
    grid.update(Ball(0.2, centre=(0.5, -0.25, 0.0)).density)
    centre = (occupied_cells(grid).nonzero() + 0.5).mean(0) / 8 - 1
    assert_close(centre, torch.tensor([0.5, -0.25, 0.0]), atol=0.05, rtol=0)  # under half a cell of 1/8


def test_main_component_drops_floaters_and_keeps_large_parts_if_asked():
    main, part, floater = ball_mesh(radius=0.7), ball_mesh(radius=0.4, centre=(2, 0, 0)), ball_mesh(radius=0.15)
    floater = Mesh(floater.vertices + 3, floater.faces)
    scene = join(floater, part, main)
    assert len(main_component(scene).faces) == len(main.faces)
    assert len(main_component(scene, share=0.1).faces) == len(main.faces) + len(part.faces)


def test_main_component_drops_the_wall_of_a_cavity():
    outer, inner = ball_mesh(radius=0.8), ball_mesh(radius=0.75)
    scene = join(outer, Mesh(inner.vertices, inner.faces.flip(1)))
    assert len(main_component(scene, share=0.01).faces) == len(outer.faces)


@pytest.mark.parametrize("target", [4, 100, 1001])
def test_decimate_never_exceeds_its_target(target):
    mesh = decimate(ball_mesh(49), target)
    assert 0.5 * target <= len(mesh.faces) <= target


def test_decimate_keeps_the_ball_closed_and_round():
    mesh = decimate(ball_mesh(49), 1000)
    assert_closed(mesh.faces)
    # 1 %: the chords of 1000 faces on a sphere cut off about that much of the volume.
    assert signed_volume(mesh) == pytest.approx(4 / 3 * math.pi * 0.7**3, rel=0.015)


def test_decimate_leaves_a_small_mesh_alone():
    mesh = ball_mesh(17)
    assert decimate(mesh, 10**6) is mesh


def test_clean_removes_degenerate_and_double_faces_and_unused_vertices():
    vertices = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [9, 9, 9], [2, 0, 0]])
    faces = torch.tensor([[0, 1, 2], [1, 2, 0], [0, 0, 1], [0, 1, 4]], dtype=torch.int32)
    mesh = clean(Mesh(vertices, faces))
    assert mesh.faces.tolist() == [[0, 1, 2]]
    assert mesh.faces.dtype == torch.int32
    assert len(mesh.vertices) == 3


def test_smoothing_takes_away_grain_but_not_volume():
    mesh = ball_mesh(49)
    noise = 0.006 * torch.randn(mesh.vertices.shape, generator=torch.Generator().manual_seed(0))
    rough = Mesh(mesh.vertices + noise, mesh.faces)
    result = smooth(rough, 5)
    spread = [m.vertices.norm(dim=1).std().item() for m in (rough, result)]
    assert spread[1] < 0.5 * spread[0]
    assert signed_volume(result) == pytest.approx(signed_volume(mesh), rel=5e-3)


def test_vertex_normals_of_a_sphere_point_outwards():
    mesh = ball_mesh(49)
    normals = vertex_normals(mesh.vertices, mesh.faces)
    # 0.97, 14 degrees: marching cubes leaves slivers whose directions are coarse.
    assert (normals * mesh.vertices / 0.7).sum(1).min() > 0.97
    assert_close(normals.norm(dim=1), torch.ones(len(normals)))


def test_meshing_is_deterministic():
    first, second = (
        decimate(smooth(extract(blobs_with_rod, resolution=40, bound=1.0, progress=False)), 500) for _ in range(2)
    )
    assert torch.equal(first.vertices, second.vertices) and torch.equal(first.faces, second.faces)


def test_without_the_decimator_all_faces_stay_and_one_line_says_so(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "fast_simplification", None)
    mesh = ball_mesh(9)
    assert len(decimate(mesh, 20).faces) == len(clean(mesh).faces) > 20
    (line,) = capsys.readouterr().err.splitlines()
    assert "fast_simplification" in line and line.endswith("pip install -r requirements.txt")
