"""raymarching: boxes, spheres, Morton order, and the samples of rays. Compositing: test_raymarching_composite.py."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import cases
import extension
import raymarching
from raymarching import reference

SIZES = [0, 1, 31, 257]  # empty, one, around a warp and a block
BOX = torch.tensor([-1.0, -1.0, -1.0, 1.0, 1.0, 1.0])
# bound, C, H: one cube, nested ones, a bound that is no power of two, cells so few that bricks would straddle cubes
GRIDS = [(1.0, 1, 32), (4.0, 3, 32), (1.5, 2, 16), (2.0, 2, 8)]


def scene(n, device, *, bound=1.0, C=1, H=32, distance=3.0):
    origins, directions = cases.rays_towards_origin(n, distance=distance, spread=1.2 * bound, device=device)
    nears, fars = raymarching.near_far_from_aabb(origins, directions, BOX.to(device) * bound, 0.05)
    bits = cases.sphere_bitfield(H, C=C, bound=bound, radius=0.3 * bound, thickness=0.3 * bound, device=device)
    return origins, directions, bound, bits, C, H, nears, fars


def walk(origin, direction, bound, bits, C, H, near, far, jitter, max_steps):
    """One ray, one step at a time, one number at a time: the distances of its samples."""
    f = np.float32
    bits, found, k = bits.numpy(), [], 0
    dt = f(2 * np.sqrt(3) / max_steps)
    while (t := f(f(k) * dt) + f(f(jitter) * dt + f(near))) < f(far):
        p = [f(f(t * f(d)) + f(o)) for o, d in zip(origin, direction, strict=True)]
        fits = [level for level in range(C) if max(map(abs, p)) < (half := bound / 2 ** (C - 1 - level)) > dt * H / 2]
        level = min(fits, default=C - 1)
        half = bound / 2 ** (C - 1 - level)
        cell = [min(max(int(f(f(x * f(H / (2 * half))) + f(H / 2))), 0), H - 1) for x in p]
        place = sum((c >> b & 1) << (3 * b + i) for i, c in enumerate(cell) for b in range(10))
        if bits[(level * H**3 + place) // 8] >> (place % 8) & 1:
            found.append(t)
        k += 1
    return np.array(found, dtype=f)


def assert_nearly_same_samples(got, expected):
    """exp and log differ in their last bit: a sample at the border of a cell may be in one result only."""
    same = (got[3][:, 1] == expected[3][:, 1]).cpu()
    assert same.float().mean() > 0.99
    owners = [raymarching.flatten_rays(x[3], len(x[2])).long().cpu() for x in (got, expected)]
    for a, b in zip(got[:3], expected[:3], strict=True):
        assert_close(a.cpu()[same[owners[0]]], b.cpu()[same[owners[1]]], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("n", SIZES)
def test_near_far_matches_reference(device, n):
    origins, directions = cases.rays_towards_origin(n, spread=2.0, device=device)
    got = raymarching.near_far_from_aabb(origins, directions, BOX.to(device), 0.2)
    assert_close(got, reference.near_far_from_aabb(origins, directions, BOX.to(device), 0.2))


def test_near_and_far_lie_on_the_box_and_missing_rays_have_no_length(device):
    origins, directions = cases.rays_towards_origin(500, spread=2.5, device=device)
    nears, fars = raymarching.near_far_from_aabb(origins, directions, BOX.to(device), 0.2)
    hit = nears < fars
    assert 50 < hit.sum() < 450
    for t in (nears, fars):
        assert_close((origins + t[:, None] * directions)[hit].abs().amax(1), torch.ones(int(hit.sum()), device=device))
    assert (nears[~hit] == 0.2).all() and (fars[~hit] == 0.2).all()
    along = origins[~hit, None] + torch.linspace(0, 6, 2000, device=device)[:, None] * directions[~hit, None]
    assert (along.abs().amax(2) > 1).all()


def test_a_ray_inside_the_box_starts_at_min_near_and_one_looking_away_misses(device):
    origins = torch.tensor([[0.0, 0.0, 0.5], [0.0, 0.0, 3.0]], device=device)
    directions = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 1.0]], device=device)
    nears, fars = raymarching.near_far_from_aabb(origins, directions, BOX.to(device), 0.1)
    assert_close(nears.cpu(), torch.tensor([0.1, 0.1]))
    assert_close(fars.cpu(), torch.tensor([0.5, 0.1]))


@pytest.mark.parametrize("n", SIZES)
def test_sphere_coordinates_lead_back_to_the_point_on_the_sphere(device, n):
    origins, directions = cases.rays_towards_origin(n, distance=1.0, device=device)
    polar, azimuth = raymarching.sph_from_ray(origins, directions, 2.0).unbind(1)
    polar, azimuth = (polar + 1) * torch.pi / 2, azimuth * torch.pi
    y, x, z = polar.cos(), polar.sin() * azimuth.sin(), polar.sin() * azimuth.cos()
    point = 2.0 * torch.stack([x, y, z], 1)
    offset = point - origins
    along = (offset * directions).sum(1, keepdim=True)
    assert (along > 0).all()
    assert_close(offset, along * directions, atol=1e-5, rtol=0)  # arctangents of float32
    assert_close(
        raymarching.sph_from_ray(origins, directions, 2.0),
        reference.sph_from_ray(origins, directions, 2.0),
        atol=1e-5,
        rtol=0,
    )


@pytest.mark.parametrize("n", SIZES)
def test_morton_order_interleaves_bits_and_comes_back(device, n):
    coords = (cases.points(n, device=device) * 1024).int()
    indices = raymarching.morton3D(coords)
    by_hand = [
        sum((c >> b & 1) << (3 * b + i) for i, c in enumerate(row) for b in range(10)) for row in coords.tolist()
    ]
    assert indices.tolist() == by_hand
    assert torch.equal(raymarching.morton3D_invert(indices), coords)
    assert torch.equal(reference.morton3D(coords), indices)
    assert torch.equal(reference.morton3D_invert(indices), coords)


def test_packed_bits_are_those_of_numpy(device):
    grid = cases.points(2, 4**3, device=device)
    expected = np.packbits(grid.cpu().numpy() > np.float32(0.4), bitorder="little")
    for thresh in (0.4, torch.tensor(0.4, device=device)):
        assert raymarching.packbits(grid, thresh).tolist() == expected.tolist()
    assert reference.packbits(grid, 0.4).tolist() == expected.tolist()


@pytest.mark.parametrize("n", SIZES)
def test_flattened_rays_name_the_owner_of_each_sample(device, n):
    *_, packed_info = cases.packed_samples(n, device=device)
    M = int(packed_info[:, 1].sum())
    owners = [-1] * (M + 5)
    for ray, (first, count) in enumerate(packed_info.tolist()):
        owners[first : first + count] = [ray] * count
    assert raymarching.flatten_rays(packed_info, M + 5).tolist() == owners
    assert reference.flatten_rays(packed_info, M + 5).tolist() == owners


@pytest.mark.parametrize("bound, C, H", GRIDS)
@pytest.mark.parametrize("function", [raymarching.march_rays_train, reference.march_rays_train])
def test_marching_finds_what_a_walk_step_by_step_finds(device, function, bound, C, H):
    rays = scene(8, device, bound=bound, C=C, H=H, distance=1.2 * bound + 1)
    jitter = cases.points(8, 1, device=device)[:, 0]
    *_, ts, packed_info = function(*rays, noises=jitter, max_steps=100)
    origins, directions, _, bits, _, _, nears, fars = rays
    assert len(ts) > 50
    for n, (first, count) in enumerate(packed_info.tolist()):
        ray = origins[n].tolist(), directions[n].tolist(), bound, bits.cpu(), C, H, float(nears[n]), float(fars[n])
        expected = walk(*ray, float(jitter[n]), 100)
        assert_close(ts[first : first + count, 0].cpu().numpy(), expected, atol=0, rtol=0)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("bound, C, H", GRIDS)
def test_marching_matches_reference_to_the_bit(device, n, bound, C, H):
    rays = scene(n, device, bound=bound, C=C, H=H)  # some cameras stand inside the box
    for options in ({"max_steps": 300}, {"max_steps": 300, "noises": cases.points(n, 1, device=device)[:, 0]}):
        got, expected = (f(*rays, **options) for f in (raymarching.march_rays_train, reference.march_rays_train))
        for a, b in zip(got, expected, strict=True):
            assert torch.equal(a, b)
    assert n < 31 or len(got[2]) > 100


@pytest.mark.parametrize("dt_gamma", [0.0, 1 / 64])
@pytest.mark.parametrize("low, high", [((0, 0, 0), (1, 1, 1)), ((6, 9, 7), (7, 11, 8)), ((5, 0, 10), (12, 16, 16))])
def test_what_little_is_occupied_is_found_wherever_it_lies(device, low, high, dt_gamma):
    H = 16
    cells = torch.zeros(H, H, H)
    cells[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = 1.0
    x, y, z = torch.meshgrid(*[torch.arange(H)] * 3, indexing="ij")
    grid = torch.zeros(1, H**3)
    grid[0, raymarching.morton3D(torch.stack([x, y, z], -1).view(-1, 3).int()).long()] = cells.flatten()
    bits = raymarching.packbits(grid, 0.5).to(device)
    middle = (torch.tensor(low) + torch.tensor(high)) / H - 1
    origins, directions = (tensor.clone() for tensor in cases.rays_towards_origin(257, spread=0.2, device=device))
    origins += middle.to(device)
    nears, fars = torch.zeros(257, device=device), torch.full((257,), 5.0, device=device)  # far beyond the box too
    rays = origins, directions, 1.0, bits, 1, H, nears, fars
    options = {"dt_gamma": dt_gamma, "max_steps": 300}
    got, expected = (f(*rays, **options) for f in (raymarching.march_rays_train, reference.march_rays_train))
    assert len(got[2]) > 100
    if dt_gamma:
        assert_nearly_same_samples(got, expected)
    else:
        assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


@pytest.mark.parametrize("bound, C, H", GRIDS)
def test_marching_with_growing_steps_matches_reference(device, bound, C, H):
    rays = scene(257, device, bound=bound, C=C, H=H, distance=6.0)
    options = {"dt_gamma": 1 / 128, "max_steps": 500}
    got, expected = (f(*rays, **options) for f in (raymarching.march_rays_train, reference.march_rays_train))
    assert len(got[2]) > 500 and got[2][:, 1].unique().numel() > 100
    assert_nearly_same_samples(got, expected)


@pytest.mark.parametrize("bound, C, H", GRIDS[1:])
@pytest.mark.parametrize("full", [0, 1])
def test_leaving_an_empty_cube_stops_at_the_border_of_a_full_one(device, full, bound, C, H):
    *rays, bits, C, H, nears, fars = scene(257, device, bound=bound, C=C, H=H)
    bits = torch.zeros_like(bits).view(C, -1)
    bits[full] = 255
    rays = *rays, bits.flatten(), C, H, nears, fars
    cell = 2 * raymarching.cascade_half_width(0, bound, C) / H
    for dt_gamma in (0.0, cell / 3):  # steps outgrow the cells of cube 0 near the centre of the scene
        options = {"dt_gamma": dt_gamma, "max_steps": 500}
        got, expected = (f(*rays, **options) for f in (raymarching.march_rays_train, reference.march_rays_train))
        assert len(got[2]) > 100
        if dt_gamma:
            assert_nearly_same_samples(got, expected)
        else:
            assert torch.equal(got[2], expected[2])


@pytest.mark.parametrize("dt_gamma", [0.0, 1 / 64])
def test_in_a_full_grid_the_steps_tile_the_ray(device, dt_gamma):
    origins, directions, bound, bits, C, H, nears, fars = scene(64, device, bound=2.0, C=2, distance=5.0)
    full = torch.full_like(bits, 255)
    xyzs, dirs, ts, packed_info = raymarching.march_rays_train(
        origins, directions, bound, full, C, H, nears, fars, dt_gamma=dt_gamma, max_steps=400
    )
    ray = raymarching.flatten_rays(packed_info, len(ts)).long()
    assert torch.equal(dirs, directions[ray])
    assert_close(xyzs, origins[ray] + ts[:, :1] * directions[ray])
    length = torch.zeros_like(nears).index_add_(0, ray, ts[:, 1])
    longest = ts[:, 1].max()
    assert ((length - (fars - nears)).abs() < longest)[nears < fars].all()  # the last step may end behind the box
    inner = ray[1:] == ray[:-1]
    assert_close((ts[1:, 0] - ts[:-1, 0])[inner], (0.5 * (ts[1:, 1] + ts[:-1, 1]))[inner], atol=2e-5, rtol=1e-4)


def test_an_empty_grid_and_rays_that_miss_have_no_samples(device):
    origins, directions, bound, bits, C, H, nears, fars = scene(31, device)
    for field, far in ((torch.zeros_like(bits), fars), (torch.full_like(bits, 255), nears)):
        xyzs, dirs, ts, packed_info = raymarching.march_rays_train(
            origins, directions, bound, field, C, H, nears, far, noises=torch.zeros_like(nears)
        )
        assert xyzs.shape == dirs.shape == (0, 3) and ts.shape == (0, 2)
        assert not packed_info.any()


@pytest.mark.parametrize("function", [raymarching.march_rays_train, reference.march_rays_train])
def test_samples_fill_the_rows_there_are_and_rays_that_do_not_fit_stay_out(device, function):
    rays = scene(31, device)
    *whole, packed_info = function(*rays)
    first, count = packed_info.long().unbind(1)
    needed = len(whole[0])
    for rows in (needed + 5, needed, needed - 1, int(first[20]) + 1, 1, 0):
        *samples, same = function(*rays, rows=rows)
        assert torch.equal(same, packed_info) and int(same[-1].sum()) == needed
        kept = int(count[first + count <= rows].sum())
        for part, all_of_them in zip(samples, whole, strict=True):
            assert len(part) == rows
            assert torch.equal(part[:kept], all_of_them[:kept]) and not part[kept:].any()
        assert kept < needed or rows >= needed
    no_rays = function(*scene(0, device), rows=1)
    assert [part.tolist() for part in no_rays] == [[[0.0] * 3], [[0.0] * 3], [[0.0] * 2], []]


def test_axis_parallel_rays_and_broken_numbers_stay_inside_the_grid(device):
    directions = torch.eye(3, device=device).repeat(2, 1)
    origins = -2 * directions
    origins[3:] = float("nan")
    nears, fars = torch.full((6,), 1.0, device=device), torch.full((6,), 3.0, device=device)
    bits = cases.sphere_bitfield(32, device=device)
    got = raymarching.march_rays_train(origins, directions, 1.0, bits, 1, 32, nears, fars)
    expected = reference.march_rays_train(origins[:3], directions[:3], 1.0, bits, 1, 32, nears[:3], fars[:3])
    assert got[3][:3, 1].min() > 10
    assert torch.equal(got[3][:3], expected[3])


@pytest.mark.parametrize("dt_gamma", [0.0, 1 / 64])
@pytest.mark.parametrize("n_step", [1, 7])
def test_marching_in_pieces_finds_the_samples_of_the_whole(device, n_step, dt_gamma):
    *rays, bits, C, H, nears, fars = scene(31, device, bound=2.0, C=2, H=16)
    bits[::3] = 255  # so that rays have samples at once, at the border of the box
    rays = *rays, bits, C, H, nears, fars
    options = {"noises": cases.points(31, 1, device=device)[:, 0], "dt_gamma": dt_gamma, "max_steps": 200}
    *_, ts, packed_info = raymarching.march_rays_train(*rays, **options)
    rays_t, alive = rays[6].clone(), torch.arange(31, dtype=torch.int32, device=device)
    found = [[] for _ in range(31)]
    for _ in range(int(packed_info[:, 1].max()) // n_step + 1):
        args = len(alive), n_step, alive, rays_t, *rays
        piece = raymarching.march_rays(*args, **options)
        for got, expected in zip(piece, reference.march_rays(*args, **options), strict=True):
            assert_close(got, expected, atol=1e-5 if dt_gamma else 0, rtol=0)
        for ray, row in enumerate(piece[2].reshape(31, n_step, 2)):
            row = row[row[:, 1] > 0]
            found[ray] += row[:, 0].tolist()
            if len(row):
                rays_t[ray] = row[-1, 0] + 0.5 * row[-1, 1]
    assert sum(found, []) == ts[:, 0].tolist()
    assert [len(row) for row in found] == packed_info[:, 1].tolist()


def test_cpu_results_do_not_depend_on_the_number_of_threads():
    rays = scene(1000, "cpu")
    before = torch.get_num_threads()
    try:
        runs = [(torch.set_num_threads(n), raymarching.march_rays_train(*rays))[1] for n in (1, 2)]
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_float64_rays_are_marched_in_float64(device):
    rays = [x.double() if torch.is_tensor(x) and x.is_floating_point() else x for x in scene(5, device)]
    xyzs, *_ = raymarching.march_rays_train(*rays)
    assert xyzs.dtype == torch.float64 and len(xyzs) > 0


@pytest.mark.parametrize(
    "change, message",
    [
        ({"H": 48}, "power of two"),
        ({"C": 2}, "density_bitfield"),
        ({"fars": torch.zeros(3)}, "fars"),
        ({"bound": 0.0}, "bound"),
        ({"max_steps": 0}, "max_steps"),
        ({"rows": -1}, "room for -1"),
        ({"nears": torch.zeros(4, device="meta")}, "all tensors on one device, got cpu and meta"),
    ],
)
def test_wrong_input_is_named(change, message):
    names = "rays_o", "rays_d", "bound", "density_bitfield", "C", "H", "nears", "fars"
    args = dict(zip(names, scene(4, "cpu"), strict=True)) | change
    with pytest.raises(ValueError, match=message):
        raymarching.march_rays_train(**args)


def test_operators_follow_the_rules_of_torch(device):
    if not extension.load("raymarching"):
        pytest.skip("no compiler: the references serve")
    ops = torch.ops.raymarching
    origins, directions, bound, bits, C, H, nears, fars = scene(5, device)
    settings = bits, nears, fars, None, bound, C, H, 0.0, 100
    calls = {
        ops.near_far_from_aabb: (origins, directions, BOX.to(device), 0.1),
        ops.sph_from_ray: (origins, directions, 2.0),
        ops.morton3D: (torch.arange(6, dtype=torch.int32, device=device).reshape(2, 3),),
        ops.morton3D_invert: (torch.arange(6, dtype=torch.int32, device=device),),
        ops.packbits: (cases.points(2, 64, device=device), torch.tensor(0.5, device=device)),
        ops.flatten_rays: (torch.tensor([[0, 2], [2, 1]], dtype=torch.int32, device=device), 3),
        ops.march_rays: (torch.arange(5, dtype=torch.int32, device=device), nears, origins, directions, *settings, 3),
    }
    for op, args in calls.items():
        torch.library.opcheck(op.default, args)
    for rows in (None, 2000):
        torch.library.opcheck(ops.march_rays_train.default, (origins, directions, *settings, rows))
