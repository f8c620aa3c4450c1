import itertools
import os

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import cases
import extension
from grid_case import PRIMES, SIZES, Case, assert_near, first_derivatives, second_derivatives
from gridencoder import grid_encode


@pytest.fixture(autouse=True)
def native():
    assert extension.load("gridencoder"), "the operators under test could not be built"


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(
    "gridtype,interpolation", [("hash", "linear"), ("hash", "smoothstep"), ("tiled", "smoothstep")]
)
@pytest.mark.parametrize("channels", [1, 2, 4, 8])
@pytest.mark.parametrize("dim", [2, 3, 4, 5])
def test_grid_encode_and_its_gradients_match_reference(device, dim, channels, gridtype, interpolation, align_corners):
    case = Case(dim, channels, gridtype, interpolation, align_corners, device=device)
    x = cases.points(257, dim, device=device)
    for actual, expected in zip(
        first_derivatives(case.encode, x, case.table), first_derivatives(case.reference, x, case.table), strict=True
    ):
        assert_near(actual, expected)


@pytest.mark.parametrize("points", SIZES)
def test_sizes_match_reference(device, points):
    case, x = Case(device=device), cases.points(points, device=device)
    for actual, expected in zip(
        first_derivatives(case.encode, x, case.table), first_derivatives(case.reference, x, case.table), strict=True
    ):
        assert_near(actual, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("channels", [2, 4, 8])
def test_a_table_and_a_gradient_that_are_parts_of_other_tensors_match_reference(device, channels, dtype):
    case, x = Case(channels=channels, device=device), cases.points(31, device=device)
    case.table = case.table.to(dtype)
    shifted = torch.empty(case.table.numel() + 1, dtype=dtype, device=device)[1:].view_as(case.table)
    shifted.copy_(case.table).requires_grad_()
    output = case.encode(x, shifted)
    assert torch.equal(output, case.encode(x, case.table))
    cotangent = torch.cat([output.new_ones(1), output.detach().flatten()])[1:].view_as(output)
    expected = torch.autograd.grad(output, shifted, cotangent.clone(), retain_graph=True)[0]
    assert_near(torch.autograd.grad(output, shifted, cotangent)[0], expected)  # atomics add in any order


@pytest.mark.parametrize("points", [31, 257, 1000])
def test_samples_along_a_ray_match_reference(device, points):
    """Runs of neighbours in one cell, of all lengths: a kernel may add their gradients together."""
    case, t = Case(device=device), torch.linspace(0.01, 0.99, points, device=device)
    x = torch.stack([t, 0.3 + 0.1 * t, t * t], 1)
    x[points // 3], x[-5, 0] = 2.0, 1.5  # outside, in the middle of a run; the second beside a cell of its neighbours
    given = first_derivatives(case.encode, x, case.table), first_derivatives(case.reference, x, case.table)
    for actual, expected in zip(*given, strict=True):
        assert_near(actual, expected, 3e-5)  # many more points to a row


@pytest.mark.parametrize("points", [1, 31, 1000])
@pytest.mark.parametrize("rows", [512, 2**16])  # in the first cache, and large enough to be prefetched
@pytest.mark.parametrize("interpolation", ["linear", "smoothstep"])
def test_every_cpu_path_matches_reference(path, points, rows, interpolation):
    case = Case(interpolation=interpolation, rows=rows, base=30)
    x = cases.points(points)
    x[0] = 1.0  # the last cell of all levels
    for derivatives in (first_derivatives, second_derivatives):
        actual, expected = derivatives(case.encode, x, case.table), derivatives(case.reference, x, case.table)
        for a, b in zip(actual, expected, strict=True):
            if b is not None:  # linear interpolation: the reference knows no second derivative in a single axis
                assert_near(a, b, tolerance=1e-5)  # slopes are resolution times larger than values, curves its square


@pytest.mark.parametrize("dim,channels", [(2, 1), (3, 4), (4, 2), (5, 8)])
def test_second_derivatives_match_reference(device, dim, channels):
    case = Case(dim, channels, interpolation="smoothstep", device=device)
    x = cases.points(257, dim, device=device)
    actual, expected = second_derivatives(case.encode, x, case.table), second_derivatives(case.reference, x, case.table)
    for a, b in zip(actual, expected, strict=True):
        assert_near(a, b, tolerance=1e-5)


def test_more_points_than_a_chunk_match_reference(path):
    case, x = Case(levels=2, interpolation="smoothstep"), cases.points_on_rays(2**16 + 33)
    for actual, expected in zip(
        first_derivatives(case.encode, x, case.table), first_derivatives(case.reference, x, case.table), strict=True
    ):
        assert_near(actual, expected, tolerance=1e-4)  # float32 sums of thousands of points a row


@pytest.mark.parametrize("gridtype", ["hash", "tiled"])
def test_rows_that_are_no_power_of_two_match_reference(path, gridtype):
    case, x = Case(gridtype=gridtype, rows=1000), cases.points(257)
    for actual, expected in zip(
        first_derivatives(case.encode, x, case.table), first_derivatives(case.reference, x, case.table), strict=True
    ):
        assert_near(actual, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("channels", [1, 2, 8])
def test_16_bit_tables_are_read_and_summed_in_float32(device, dtype, channels):
    case, x = Case(channels=channels, device=device), cases.points(257, device=device)
    y, slope, gradient = first_derivatives(case.encode, x, case.table.to(dtype))
    y_ref, slope_ref, gradient_ref = first_derivatives(case.reference, x, case.table.to(dtype).float())
    assert_near(y, y_ref)
    assert_near(slope, slope_ref)
    assert gradient.dtype == dtype
    assert_near(gradient, gradient_ref, tolerance=torch.finfo(dtype).eps)  # rounded once, at the end


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_tables_match_reference_on_every_cpu_path(path, dtype):
    case, x = Case(), cases.points(31)
    assert_near(case.encode(x, case.table.to(dtype)), case.reference(x, case.table.to(dtype).float()))


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("gridtype", ["hash", "tiled"])
def test_reference_passes_gradcheck_and_gradgradcheck(dim, gridtype):
    case = Case(dim, 1, gridtype, "smoothstep", rows=16, levels=2)
    x = cases.points(3, dim, dtype=torch.float64).requires_grad_()
    table = case.table.double().requires_grad_()
    assert torch.autograd.gradcheck(case.encode, (x, table))
    assert torch.autograd.gradgradcheck(case.encode, (x, table))


@pytest.mark.parametrize("dim", [2, 3, 4, 5])
@pytest.mark.parametrize("align_corners", [False, True])
def test_linear_function_on_a_tiled_grid_is_reproduced_with_its_slope(device, dim, align_corners):
    resolution = 5
    nodes = torch.cartesian_prod(*[torch.arange(resolution)] * dim).flip(-1).to(device)  # x fastest
    where = nodes / (resolution - 1) if align_corners else (nodes + 0.5) / resolution
    slope = torch.arange(1, dim + 1, device=device) * 0.7 - 1.5
    table = (where @ slope + 0.3)[:, None]
    x = (0.1 + 0.8 * cases.points(257, dim, device=device)).requires_grad_()  # between the outermost nodes
    options = {"gridtype": "tiled", "align_corners": align_corners}
    y = grid_encode(x, table.requires_grad_(), [0, resolution**dim], 1.0, resolution, **options)
    assert_near(y[:, 0], x @ slope + 0.3)
    assert_near(torch.autograd.grad(y.sum(), x)[0], slope.expand_as(x), tolerance=1e-5)


def test_corner_rows_follow_the_hash_of_the_paper(device):
    # A table with one 1 answers only where a corner hashes to its row: with weights, that is the whole encoding.
    resolution, rows, x = 11, 64, cases.points(31, device=device)
    case = Case(levels=1, base=resolution, rows=rows, device=device)
    y = case.encode(x, case.table)
    for n in range(31):
        q = [min(max(float(c) * resolution - 0.5, 0.0), resolution - 1) for c in x[n]]
        expected = torch.zeros(2, dtype=torch.float64)
        for bits in itertools.product((0, 1), repeat=3):
            weight, index = 1.0, 0
            for d in range(3):
                base = min(int(q[d]), resolution - 2)
                weight *= (q[d] - base) if bits[d] else 1 - (q[d] - base)
                index ^= (base + bits[d]) * PRIMES[d] % 2**32
            expected += weight * case.table[index % rows].double().cpu()
        assert_near(y[n].cpu(), expected)


@pytest.mark.parametrize("max_level,active", [(0.01, 1), (0.25, 1), (0.3, 2), (0.75, 3), (1.0, 4)])
def test_levels_above_max_level_are_zero_and_get_no_gradient(path, max_level, active):
    case, x = Case(), cases.points(257)
    table = case.table.clone().requires_grad_()
    y = case.encode(x, table, max_level)
    assert_near(y, case.reference(x, case.table, active))
    (gradient,) = torch.autograd.grad(y, table, cases.cotangent(y))
    assert (gradient[case.offsets[active] :] == 0).all()
    assert (gradient[: case.offsets[active]] != 0).any()


def test_points_outside_give_zeros_and_no_gradient(path):
    case, x = Case(interpolation="smoothstep"), cases.points(40)
    x[3, 0], x[17, 1], x[20, 2], x[39, 2] = -1e-6, 1.0001, float("nan"), float("inf")
    outside = torch.tensor([3, 17, 20, 39])
    x.requires_grad_()
    table = case.table.clone().requires_grad_()
    y = case.encode(x, table)
    slope, gradient = torch.autograd.grad(y, (x, table), cases.cotangent(y))
    assert (y[outside] == 0).all() and (slope[outside] == 0).all()
    keep = torch.ones(40, dtype=torch.bool)
    keep[outside] = False
    y_in = case.reference(x[keep], table)
    assert_near(y[keep], y_in)
    assert_near(gradient, torch.autograd.grad(y_in, table, cases.cotangent(y)[keep])[0])


def test_border_and_beyond_the_outermost_nodes_the_value_is_constant(path):
    case = Case(levels=1)
    x = torch.tensor([[0.0, 0.5, 0.5], [0.05, 0.5, 0.5], [0.95, 0.5, 0.5], [1.0, 0.5, 0.5]], requires_grad=True)
    y = case.encode(x, case.table.requires_grad_())
    assert_near(y[0], y[1])
    assert_near(y[2], y[3])
    assert (torch.autograd.grad(y.sum(), x)[0][:, 0] == 0).all()


def test_slope_at_the_far_border_is_that_of_the_last_cell(path):
    case, x = Case(align_corners=True), cases.points(40)
    x[:20, 0], x[10:30, 1], x[15:, 2] = 1.0, 1.0, 1.0
    for actual, expected in zip(
        first_derivatives(case.encode, x, case.table), first_derivatives(case.reference, x, case.table), strict=True
    ):
        assert_near(actual, expected)


@pytest.mark.parametrize("resolution", [1111, 1537, 1999])
def test_points_on_the_border_of_two_cells_take_the_cell_of_the_reference(path, resolution):
    # Linear slopes jump there, so a position with other last bits (a fused multiply-add) shows. It has other bits where
    # the subtraction of 0.5 leaves the binade: just below the powers of two.
    case = Case(levels=1, base=resolution, rows=2**16)
    exponents = torch.randint(0, 10, (200, 3), generator=torch.Generator().manual_seed(0))
    x = (2.0**exponents + 0.5) / resolution
    _, slope, _ = first_derivatives(case.encode, x, case.table)
    _, slope_ref, _ = first_derivatives(case.reference, x, case.table)
    assert_near(slope, slope_ref)


def test_embedding_gradient_is_the_same_for_any_number_of_threads():
    case, x = Case(rows=2**16, base=30), cases.points_on_rays(5000)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 2):
            torch.set_num_threads(count)
            results.append(first_derivatives(case.encode, x, case.table))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_operators_pass_opcheck(device):
    case = Case(device=device, interpolation="smoothstep")
    x, table = cases.points(31, device=device).requires_grad_(), case.table.requires_grad_()
    v = cases.directions(31, device=device).requires_grad_()
    g = cases.cotangent(case.encode(x, table)).detach().requires_grad_()
    layout = (case.offsets, case.resolutions, True, False, True, 3)
    ops = torch.ops.gridencoder
    for direction in (None, v):
        torch.library.opcheck(ops.grid_encode.default, (x, table, direction, *layout))
        torch.library.opcheck(ops.grid_embedding_gradient.default, (g, x, direction, *layout))
    torch.library.opcheck(ops.grid_input_gradient.default, (g, x, table, None, *layout))
    sums, plain = torch.zeros_like(case.table), case.table.detach()
    levels = (case.offsets, case.resolutions, True)
    torch.library.opcheck(ops.grid_total_variation_gradient_.default, (sums, x.detach(), plain, 0.5, *levels))
    torch.library.opcheck(ops.grid_weight_decay_gradient_.default, (sums, plain, 0.5, case.offsets))


def test_normals_alone_do_not_compute_the_gradient_of_the_table():
    called = []

    class Record(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            called.append(func.name())
            return func(*args, **(kwargs or {}))

    case, x = Case(), cases.points(31).requires_grad_()
    y = case.encode(x, case.table.requires_grad_())
    with Record():
        torch.autograd.grad(y.sum(), x)
    assert "gridencoder::grid_input_gradient" in called
    assert "gridencoder::grid_embedding_gradient" not in called


@pytest.mark.parametrize(
    "change,word",
    [
        ({"gridtype": "cube"}, "gridtype"),
        ({"interpolation": "cubic"}, "interpolation"),
        ({"max_level": 0.0}, "max_level"),
        ({"max_level": 1.5}, "max_level"),
        ({"base_resolution": 1}, "base_resolution"),
        ({"offsets": [0, 5, 5, 125]}, "offsets"),
        ({"embeddings": torch.zeros(125, 3)}, "embeddings"),
        ({"inputs": torch.zeros(4, 6)}, "inputs"),
        ({"embeddings": torch.zeros(125, 2, device="meta")}, "all tensors on one device, got cpu and meta"),
    ],
)
def test_wrong_arguments_are_named(change, word):
    arguments = {"inputs": torch.zeros(4, 3), "embeddings": torch.zeros(125, 2), "offsets": [0, 125]}
    arguments |= {"per_level_scale": 2.0, "base_resolution": 5} | change
    with pytest.raises(ValueError, match=word):
        grid_encode(**arguments)


def test_an_unknown_cpu_path_is_named(monkeypatch):
    monkeypatch.setitem(os.environ, "TADPOLE_CPU_PATH", "mmx")
    case = Case()
    with pytest.raises(RuntimeError, match="baseline, avx2 or avx512"):
        case.encode(cases.points(1), case.table)
