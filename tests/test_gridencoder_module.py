"""The encoder as a module, and what keeps its table smooth and small."""

import pytest
import torch

import cases
import extension
from grid_case import SIZES, TOLERANCE, Case, assert_near
from gridencoder import GridEncoder, grid_total_variation_, grid_weight_decay_, reference


@pytest.fixture(autouse=True)
def native():
    assert extension.load("gridencoder"), "the operators under test could not be built"


@pytest.mark.parametrize("mode", ["native", "torch"])
def test_total_variation_of_a_dense_picture_is_that_of_its_differences(device, mode):
    side = 7
    picture = (2 * cases.points(side * side, 2, device=device) - 1).requires_grad_()
    square = picture.view(side, side, 2)
    right = torch.nn.functional.pad((square[:, 1:] - square[:, :-1]), (0, 0, 0, 1))  # no term past the border
    down = torch.nn.functional.pad((square[1:] - square[:-1]), (0, 0, 0, 0, 0, 1))
    (expected,) = torch.autograd.grad(0.25 * (right**2 + down**2 + 1e-9).sqrt().sum(), picture)
    nodes = torch.cartesian_prod(torch.arange(side), torch.arange(side)).to(device)  # each node once
    gradient = torch.ones_like(picture)
    extension.set_mode(mode)
    try:
        grid_total_variation_(
            gradient, (nodes + 0.5) / side, picture.detach(), 0.25, [0, side**2], [side], gridtype="tiled"
        )
    finally:
        extension.set_mode("native")
    assert_near(gradient, 1 + expected)


@pytest.mark.parametrize("points", SIZES)
@pytest.mark.parametrize("dim,channels,gridtype", [(2, 8, "hash"), (3, 2, "hash"), (3, 1, "tiled"), (5, 4, "hash")])
def test_total_variation_gradient_matches_reference(device, points, dim, channels, gridtype):
    case = Case(dim, channels, gridtype, rows=300, device=device)
    x = cases.points(points, dim, device=device)
    if points:
        x[0], x[-1, 0] = 1.0, 1.5  # the last node of every axis; outside
    table = case.table.clone().requires_grad_()
    energy = reference.grid_total_variation(x, table, case.offsets, case.resolutions, hashed=case.hashed)
    (expected,) = torch.autograd.grad(0.5 * energy, table)
    gradient = torch.zeros_like(case.table)
    grid_total_variation_(gradient, x, case.table, 0.5, case.offsets, case.resolutions, gridtype)
    assert_near(gradient, expected)


@pytest.mark.parametrize("points", [*SIZES, 1000])
@pytest.mark.parametrize("rows", [512, 2**16])  # in the first cache, and large enough to be prefetched
@pytest.mark.parametrize("gridtype", ["hash", "tiled"])
def test_total_variation_gradient_matches_reference_on_every_cpu_path(path, points, rows, gridtype):
    case, x = Case(gridtype=gridtype, rows=rows, base=30), cases.points(points)
    if points:
        x[0], x[-1, 0] = 1.0, 1.5  # the last node of every axis; outside
    if points > 20:
        x[3:9], x[9, 1] = x[2], torch.nan  # lanes that share their rows; nowhere
    table = case.table.clone().requires_grad_()
    energy = reference.grid_total_variation(x, table, case.offsets, case.resolutions, hashed=case.hashed)
    (expected,) = torch.autograd.grad(0.5 * energy, table)
    gradient = torch.ones_like(case.table)
    grid_total_variation_(gradient, x, case.table, 0.5, case.offsets, case.resolutions, gridtype)
    assert_near(gradient, 1 + expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("mode", ["native", "torch"])
def test_weight_decay_pulls_each_level_by_its_mean(device, mode, dtype):
    case = Case(device=device)
    table = case.table.to(dtype)
    sizes = torch.tensor(case.offsets).diff()
    per_row = (2 * 0.5 / sizes).repeat_interleave(sizes).to(device)[:, None]
    gradient = torch.ones_like(table)
    extension.set_mode(mode)
    try:
        grid_weight_decay_(gradient, table, 0.5, case.offsets)
    finally:
        extension.set_mode("native")
    assert_near(gradient, 1 + per_row * table.float(), tolerance=max(TOLERANCE, torch.finfo(dtype).eps))


def test_encoder_has_the_levels_of_instant_ngp():
    encoder = GridEncoder(desired_resolution=2048, log2_hashmap_size=14)
    assert encoder.resolutions[0] == 16 and encoder.resolutions[-1] == 2048 and encoder.output_dim == 32
    assert encoder.offsets[1] == 16**3 and encoder.offsets[-1] - encoder.offsets[-2] == 2**14
    assert 0.9e-4 < encoder.embeddings.abs().max() <= 1e-4
    assert encoder(cases.points(6).view(2, 3, 3)).shape == (2, 3, 32)


def test_encoder_maps_the_box_to_the_unit_cube():
    encoder = GridEncoder(num_levels=2, log2_hashmap_size=12)
    x = cases.points(31)
    assert_near(encoder(8 * x - 4, bound=4) * 1e4, encoder(2 * x - 1) * 1e4)


def test_encoder_regularisers_add_to_the_gradient_that_is_there():
    encoder = GridEncoder(num_levels=2, log2_hashmap_size=12)
    encoder(cases.points(31)).sum().backward()
    before = encoder.embeddings.grad.clone()
    encoder.grad_weight_decay(0.5)
    decay = torch.zeros_like(before)
    grid_weight_decay_(decay, encoder.embeddings.detach(), 0.5, encoder.offsets)
    torch.testing.assert_close(encoder.embeddings.grad, before + decay, rtol=1e-6, atol=1e-12)
    encoder.embeddings.grad = None
    encoder.grad_total_variation(1e-6, B=1000, generator=torch.Generator().manual_seed(0))
    first = encoder.embeddings.grad.clone()
    encoder.grad_total_variation(1e-6, B=1000, generator=torch.Generator().manual_seed(0))
    assert first.abs().max() > 0
    torch.testing.assert_close(encoder.embeddings.grad, 2 * first, rtol=1e-4, atol=1e-6)


def test_total_variation_without_points_or_generator_is_refused():
    with pytest.raises(ValueError, match="generator"):
        GridEncoder(num_levels=1).grad_total_variation(1.0)
