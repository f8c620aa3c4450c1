import itertools

import pytest
import torch

import cases
import extension
import fusedfield
import raymarching
from fusedfield import reference
from gridencoder.grid import active_levels, level_resolutions
from nerf.fields import HashGridField

# Relative to the largest value: sums of up to 64 products, 3 layers and 300 points in float32, in another order.
TOLERANCE = 5e-6
PATHS = ["baseline", "avx2", "avx512"]


class Case:
    """A field on a grid from 4 to 4 * 1.5^(levels - 1) nodes an axis, dense and shared rows, features of order 1."""

    def __init__(self, levels=8, hidden=(64, 64), gridtype="hash", interpolation="smoothstep", rows=512, channels=2):
        self.resolutions = level_resolutions(levels, 1.5, 4)
        self.offsets = [0, *itertools.accumulate(min(r**3, rows) for r in self.resolutions)]
        self.table = 2 * cases.points(self.offsets[-1], channels, seed=7) - 1
        self.layers = cases.linear_layers(channels * levels, *hidden, 4)
        self.grid = {"gridtype": gridtype, "interpolation": interpolation}
        self.options = {"bound": 1.5, "activation": "exp", "blob_density": 2.0, "blob_radius": 0.5, "outputs": 4}

    def query(self, x, table, layers, *, max_level=None, **options):
        options = self.options | options
        return fusedfield.field_query(
            x, table, layers, self.offsets, self.resolutions, max_level=max_level, **self.grid, **options
        )

    def query_rays(self, x, lengths, packed_info, limit, table, layers, *, max_level=None, **options):
        options = self.options | options
        del options["outputs"]
        place = (x, lengths, packed_info, limit, table, layers, self.offsets, self.resolutions)
        return fusedfield.field_query_rays(*place, max_level=max_level, **self.grid, **options)

    def reference(self, x, table, layers, **options):
        return reference.field_query(x, table, layers, self.offsets, self.resolutions, **self.resolved(**options))

    def reference_rays(self, x, lengths, packed_info, limit, table, layers, **options):
        place = (x, lengths, packed_info, limit, table, layers, self.offsets, self.resolutions)
        return reference.field_query_rays(*place, **self.resolved(**options))

    def resolved(self, *, max_level=None, **options):
        return (
            self.options
            | options
            | {
                "hashed": self.grid["gridtype"] == "hash",
                "align_corners": False,
                "smoothstep": self.grid["interpolation"] == "smoothstep",
                "active": active_levels(max_level, len(self.resolutions)),
            }
        )

    def derivatives(self, function, x, dtype=torch.float32, **options):
        """sigma, albedo, and the gradients of the table, weights and biases for random cotangents."""
        table, *flat = [
            tensor.to(dtype).requires_grad_() for tensor in (self.table, *itertools.chain.from_iterable(self.layers))
        ]
        outputs = function(x.to(dtype), table, list(zip(flat[::2], flat[1::2], strict=True)), **options)
        # Cotangents like those of a renderer: smaller where there is more.
        cotangents = [cases.cotangent(y, seed=i) / (1 + y.detach().abs()) for i, y in enumerate(outputs)]
        return *outputs, *torch.autograd.grad(outputs, (table, *flat), cotangents)


def points(count, seed=0):
    return 3 * cases.points(count, seed=seed) - 1.5


def assert_near(actual, expected, tolerance=TOLERANCE):
    for a, b in zip(actual, expected, strict=True):
        assert a.shape == b.shape
        scale = max(1e-3, b.abs().max().item()) if b.numel() else 1.0
        torch.testing.assert_close(a.double(), b.double(), rtol=0, atol=tolerance * scale)


@pytest.fixture(autouse=True)
def native():
    assert extension.load("fusedfield"), "the operators under test could not be built"


@pytest.fixture(params=PATHS)
def path(request, monkeypatch):
    monkeypatch.setenv("TADPOLE_CPU_PATH", request.param)
    case = Case(levels=1)
    try:
        case.query(points(1), case.table, case.layers)
    except RuntimeError as error:
        assert "does not have" in str(error)
        pytest.skip(f"no {request.param} here")
    return request.param


@pytest.mark.parametrize("gridtype,interpolation", [("hash", "smoothstep"), ("hash", "linear"), ("tiled", "linear")])
@pytest.mark.parametrize("levels", [1, 8, 16])
def test_field_and_its_gradients_match_reference(path, levels, gridtype, interpolation):
    case, x = Case(levels, gridtype=gridtype, interpolation=interpolation), points(300)
    assert_near(case.derivatives(case.query, x), case.derivatives(case.reference, x))


def test_field_and_its_gradients_match_float64():
    case, x = Case(), points(300)
    # A position is rounded to 1e-7 of the box, which is 7e-6 cells of the finest level.
    assert_near(case.derivatives(case.query, x), case.derivatives(case.reference, x, torch.float64), tolerance=3e-5)


@pytest.mark.parametrize("count", [0, 1, 31, 48, 49, 257, 4081, 30000])  # around a vector, a tile, a run, a chunk
def test_sizes_match_reference(path, count):
    case, x = Case(levels=2, hidden=(16,)), points(count)
    # float32 sums of thousands of points a row
    assert_near(case.derivatives(case.query, x), case.derivatives(case.reference, x), tolerance=1e-4)


@pytest.mark.parametrize("hidden", [(16,), (40, 24), (1, 64), (96, 128), (256, 32, 48, 16, 16, 16, 16)])
def test_networks_of_other_shapes_match_reference(path, hidden):
    case, x = Case(levels=5, hidden=hidden), points(100)
    assert_near(case.derivatives(case.query, x), case.derivatives(case.reference, x))


@pytest.mark.parametrize("max_level", [0.1, 0.5, 0.6])
def test_levels_held_back_are_zeros_and_get_no_gradient(path, max_level):
    case, x = Case(), points(100)
    actual = case.derivatives(case.query, x, max_level=max_level)
    assert_near(actual, case.derivatives(case.reference, x, max_level=max_level))
    assert (actual[2][case.offsets[active_levels(max_level, 8)] :] == 0).all()


@pytest.mark.parametrize("outputs", [1, 4])
@pytest.mark.parametrize("activation", ["none", "exp", "softplus"])
def test_activations_match_reference(path, activation, outputs):
    case, x = Case(), points(300)
    options = {"activation": activation, "outputs": outputs}
    assert_near(case.derivatives(case.query, x, **options), case.derivatives(case.reference, x, **options))


@pytest.mark.parametrize("activation", ["exp", "softplus"])
def test_activations_are_accurate_from_end_to_end_of_their_range(path, activation):
    case = Case(levels=1)
    layers = [(torch.zeros_like(weight), torch.zeros_like(bias)) for weight, bias in case.layers]
    x = torch.linspace(0, 1.5, 4001)[:, None] * torch.tensor([1.0, 0.0, 0.0])
    blob = {"blob_density": 60.0, "blob_radius": 0.7}  # 60 to -68
    raw, _ = case.query(x, case.table, layers, activation="none", **blob)
    sigma, _ = case.query(x, case.table, layers, activation=activation, **blob)
    expected = reference.ACTIVATIONS[activation](raw.double())
    torch.testing.assert_close(sigma.double(), expected, rtol=1e-6, atol=0)


def test_a_density_beyond_the_exponential_keeps_its_gradient(path):
    case, x = Case(), points(50) * 0.01
    actual, expected = (case.derivatives(function, x, blob_density=40.0) for function in (case.query, case.reference))
    assert (actual[0] == actual[0].max()).all()
    assert_near(actual, expected)


def test_density_alone_is_the_density_of_the_query_bit_for_bit(path):
    case, x = Case(), points(300)
    both, alone = (case.query(x, case.table, case.layers, outputs=outputs)[0] for outputs in (4, 1))
    assert torch.equal(both, alone)


def test_points_outside_encode_to_zeros_and_give_no_gradient(path):
    case, x = Case(), points(100)
    x[::3] += 4
    x[1] = torch.tensor([1.5, -1.5, 1.5])  # a corner of the box is inside
    x[2, 1] = 1.5 + 2e-7  # the next number beyond it is not
    assert_near(case.derivatives(case.query, x), case.derivatives(case.reference, x))
    gradient = case.derivatives(case.query, x[::3])[2]
    assert (gradient == 0).all()


def test_a_position_that_is_no_number_spoils_its_own_density_alone(path):
    case, x = Case(), points(20)
    expected = case.query(x, case.table, case.layers)
    x[5] = torch.nan
    sigma, albedo = case.query(x, case.table, case.layers)
    others = torch.arange(20) != 5
    assert sigma[5].isnan()
    assert torch.equal(sigma[others], expected[0][others]) and torch.equal(albedo[others], expected[1][others])


def test_a_closed_relu_passes_no_gradient(path):
    case, x = Case(), points(30)
    weight, bias = case.layers[1]
    case.layers[1] = (weight * 0, bias * 0)  # all 64 sums are 0: torch's derivative there is 0
    actual = case.derivatives(case.query, x)
    assert_near(actual, case.derivatives(case.reference, x))
    assert all((gradient == 0).all() for gradient in actual[2:7]) and (actual[-1] != 0).any()


def test_results_do_not_depend_on_the_samples_around(path):
    case, x = Case(), points(200)
    whole = case.query(x, case.table, case.layers)
    part = case.query(x[77:130], case.table, case.layers)
    assert all(torch.equal(a[77:130], b) for a, b in zip(whole, part, strict=True))


def test_no_bit_depends_on_the_number_of_threads():
    case, x = Case(), points(60000)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 2):
            torch.set_num_threads(count)
            results.append(case.derivatives(case.query, x))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_128_bytes_a_sample_are_kept_for_16_levels_beside_the_positions_and_none_without_gradients():
    case = Case(levels=16)
    table = case.table.requires_grad_()

    def kept(count):
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.nbytes) or t, lambda t: t):
            case.query(points(count), table, case.layers)
        return sum(saved)

    assert kept(8192) - kept(4096) == (128 + 3 * 4) * 4096
    with torch.no_grad():
        assert kept(4096) == 0


@pytest.mark.parametrize("what", ["float64", "wide", "deep", "channels", "positions"])
def test_arguments_without_a_kernel_take_the_reference(what):
    hidden = {"wide": (257,), "deep": (16,) * 8}.get(what, (16,))
    case = Case(levels=2, hidden=hidden, channels=4 if what == "channels" else 2)
    x, dtype = points(10), torch.float64 if what == "float64" else torch.float32
    x = x.requires_grad_(what == "positions")
    assert not fusedfield.serves(x.to(dtype), case.table, case.layers)
    assert_near(case.derivatives(case.query, x, dtype), case.derivatives(case.reference, x, dtype), tolerance=0)


def test_a_second_derivative_is_refused():
    case, x = Case(levels=2), points(10)
    table = case.table.requires_grad_()
    (gradient,) = torch.autograd.grad(case.query(x, table, case.layers)[0].sum(), table, create_graph=True)
    with pytest.raises(RuntimeError, match="one derivative"):
        gradient.sum().backward()


@pytest.mark.parametrize(
    "change,message",
    [
        ({"activation": "relu"}, "activation must be one of none, exp, softplus"),
        ({"outputs": 3}, "gives 1 or 4"),
        ({"max_level": 0.0}, "max_level"),
        ({"layers": cases.linear_layers(16, 8, 3)}, "4 channels"),
        ({"layers": cases.linear_layers(14, 8, 4)}, "follow each other"),
        ({"table": torch.zeros(5, 2)}, "as many embeddings"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    case = Case()
    arguments = {"x": points(3), "table": case.table, "layers": case.layers} | change
    with pytest.raises(ValueError, match=message):
        case.query(**arguments)


def test_operators_pass_opcheck():
    case, x = Case(levels=2, hidden=(16,)), points(31)
    table = case.table.requires_grad_()
    parameters = torch.cat([tensor.flatten() for layer in case.layers for tensor in layer]).requires_grad_()
    layout = (case.offsets, case.resolutions, True, False, True, 2, [4, 16, 4], 1.5, 2.0, 4.0, 1)
    ops = torch.ops.fusedfield
    for outputs in (1, 4):
        torch.library.opcheck(ops.field_query.default, (x, table, parameters, *layout, outputs, True))
        sigma, albedo, saved = (t.detach() for t in ops.field_query(x, table, parameters, *layout, outputs, True))
        given = (cases.cotangent(sigma), cases.cotangent(albedo), saved, x, table.detach(), parameters.detach())
        torch.library.opcheck(ops.field_query_backward.default, (*given, *layout, outputs))


@pytest.mark.parametrize("activation", ["exp", "softplus"])
def test_the_hash_grid_field_is_the_composition_of_its_parts(activation):
    options = {"num_levels": 4, "log2_hashmap_size": 10, "desired_resolution": 64, "density_activation": activation}
    field, x = HashGridField(bound=1.5, **options), points(300)
    with torch.no_grad():
        field.encoder.embeddings.uniform_(-1, 1, generator=torch.Generator().manual_seed(3))
    field.set_max_level(0.7)
    results = {}
    try:
        for mode in ("native", "torch"):
            extension.set_mode(mode)
            with torch.no_grad():
                values = [field.density(x), field.potential(x)]
            outputs = field.query(x)
            cotangents = [cases.cotangent(y, seed=i) for i, y in enumerate(outputs)]
            results[mode] = [*values, *outputs, *torch.autograd.grad(outputs, list(field.parameters()), cotangents)]
    finally:
        extension.set_mode("native")
    assert_near(results["native"], results["torch"])


def test_the_hash_grid_field_uses_the_operator_but_for_derivatives_in_positions_and_bf16(monkeypatch):
    used = []
    monkeypatch.setattr(fusedfield, "field_query", lambda x, *_, **__: used.append(len(x)) or (x[:, 0], x))
    field, mixed = HashGridField(num_levels=2), HashGridField(num_levels=2, precision="bf16")
    x = points(5)
    field.query(x), field.density(x), field.potential(x), mixed.potential(x)
    assert used == [5] * 4
    field.normal(x, "analytic"), mixed.query(x), field.potential(x.clone().requires_grad_())
    assert used == [5] * 4


# ---- along rays ----

FOG = {"blob_density": 2.0, "blob_radius": 1.5}  # dense enough everywhere to end rays


def rays(count, longest=40):
    """Rays of 0 to `longest` samples anywhere in the box: positions [M, 3], lengths [M], packed_info [N, 2]."""
    *_, ts, packed_info = cases.packed_samples(count, longest=longest)
    return points(len(ts)), ts[:, 1], packed_info


def along(case, function, bundle, limit, **options):
    """kept, counts, sigma, albedo, and the gradients of the table, weights and biases for random cotangents."""
    x, *rest = bundle
    indices = []

    def values(x, *field):
        *of_samples, kept, counts = function(x, *rest, limit, *field, **FOG, **options)
        indices.extend((kept, counts))
        return of_samples

    results = case.derivatives(values, x)
    return *indices, *results


@pytest.mark.parametrize("limit", [0.5, torch.inf])
@pytest.mark.parametrize("count", [0, 1, 31, 64, 257])  # around a task; 257 rays have more samples than a run
def test_rays_match_reference(path, count, limit):
    case, bundle = Case(levels=2, hidden=(16,)), rays(count)
    kept, counts, *actual = along(case, case.query_rays, bundle, limit)
    expected_kept, expected_counts, *expected = along(case, case.reference_rays, bundle, limit)
    assert kept.dtype == torch.int64 and counts.dtype == torch.int32
    assert torch.equal(kept, expected_kept) and torch.equal(counts, expected_counts)
    assert_near(actual, expected, tolerance=1e-4)  # float32 sums of thousands of points a row
    assert count < 31 or limit > 1 or len(kept) < 0.8 * len(bundle[0])


@pytest.mark.parametrize("max_level", [None, 0.5])
def test_samples_of_rays_and_their_gradients_are_those_of_the_query_bit_for_bit(path, max_level):
    case, bundle = Case(), rays(600)
    kept, _, *of_rays = along(case, case.query_rays, bundle, 1.0, max_level=max_level)
    assert 4080 < len(kept) < len(bundle[0])  # more than one run, and not all
    of_points = case.derivatives(case.query, bundle[0][kept], max_level=max_level, **FOG)
    assert all(torch.equal(a, b) for a, b in zip(of_rays, of_points, strict=True))


@pytest.mark.parametrize("limit", [-1, 0, 2.5, 3, 14, 15, 16, 17, 31, 38, 39, 100])  # around rounds of 16, and the end
def test_a_ray_through_constant_fog_has_one_sample_more_than_its_limit(limit):
    case = Case(levels=1)
    layers = [(torch.zeros_like(weight), torch.zeros_like(bias)) for weight, bias in case.layers]
    layers[-1][1][0] = 1.0
    packed_info = torch.tensor([[0, 40], [40, 0], [40, 20]], dtype=torch.int32)
    bundle = points(60), torch.ones(60), packed_info, limit
    options = {"activation": "none", "blob_density": 0.0}
    sigma, _, kept, counts = case.query_rays(*bundle, case.table, layers, **options)
    expected = [min(count, int(limit) + 1) for count in (40, 0, 20)]
    assert counts.tolist() == expected
    assert kept.tolist() == [*range(expected[0]), *range(40, 40 + expected[2])]
    assert (sigma == 1).all()


def test_a_ray_may_be_longer_than_many_rounds(path):
    case, x = Case(levels=2), points(1000)
    packed_info = torch.tensor([[0, 993], [993, 7]], dtype=torch.int32)
    sigma, _, kept, counts = case.query_rays(x, torch.ones(1000), packed_info, torch.inf, case.table, case.layers)
    assert torch.equal(kept, torch.arange(1000)) and counts.tolist() == [993, 7]
    assert torch.equal(sigma, case.query(x, case.table, case.layers)[0])


def test_samples_that_are_not_reached_have_no_part_in_the_gradient_of_a_blend():
    case, bundle = Case(), rays(200, longest=60)
    _, lengths, packed_info = bundle
    ts = torch.stack([lengths.cumsum(0), lengths], 1)
    options = {"blob_density": 5.0, "blob_radius": 3.0}  # dense enough to end most rays

    def blend_of_all(x, *field):
        return raymarching.composite_rays_train(*case.query(x, *field, **options), ts, packed_info, 1e-4)[1:]

    def blend_of_reached(x, *field):
        *values, kept, counts = case.query_rays(x, lengths, packed_info, 9.3, *field, **options)
        assert len(kept) < 0.8 * len(x)
        packed = torch.stack([counts.cumsum(0).int() - counts, counts], 1)
        return raymarching.composite_rays_train(*values, ts[kept], packed, 1e-4)[1:]

    actual, expected = (case.derivatives(function, bundle[0]) for function in (blend_of_reached, blend_of_all))
    assert_near(actual[:3], expected[:3], tolerance=0)
    assert_near(actual[3:], expected[3:])


def test_a_density_that_is_no_number_ends_no_ray(path):
    case, (x, lengths, packed_info) = Case(), rays(5)
    first, count = packed_info[2].tolist()
    expected = case.query_rays(x, lengths, packed_info, 0.5, case.table, case.layers, **FOG)[-1]
    assert expected[2] < count
    expected[2] = count
    x[first] = torch.nan
    counts = case.query_rays(x, lengths, packed_info, 0.5, case.table, case.layers, **FOG)[-1]
    assert torch.equal(counts, expected)


def test_no_bit_along_rays_depends_on_the_number_of_threads():
    case, bundle = Case(), rays(1000)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(along(case, case.query_rays, bundle, 1.0))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_rays_in_double_precision_take_the_reference():
    case, (x, lengths, packed_info) = Case(levels=2), rays(9)
    layers = [(weight.double(), bias.double()) for weight, bias in case.layers]
    given = x.double(), lengths, packed_info, 0.5, case.table.double(), layers
    actual, expected = case.query_rays(*given), case.reference_rays(*given)
    assert actual[0].dtype == torch.float64
    assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


@pytest.mark.parametrize(
    "packed_info", [[[0, 11]], [[-1, 2]], [[0, -1]], [[0, 4], [3, 2]], [[5, 2], [0, 2]]]
)  # beyond the samples, before them, negative, two rays with one sample, in another order
def test_rays_that_do_not_follow_each_other_are_refused(packed_info):
    case = Case(levels=1)
    with pytest.raises(RuntimeError, match="packed_info: ray"):
        packed = torch.tensor(packed_info, dtype=torch.int32)
        case.query_rays(points(10), torch.ones(10), packed, 1.0, case.table, case.layers)


def test_lengths_and_rays_of_another_shape_are_named():
    case, (x, lengths, packed_info) = Case(levels=1), rays(3)
    for wrong in ((lengths[1:], packed_info), (lengths, packed_info[0])):
        with pytest.raises(ValueError, match="a length for each"):
            case.query_rays(x, *wrong, 1.0, case.table, case.layers)


def test_the_operator_along_rays_passes_opcheck_and_keeps_nothing_without_gradients():
    case, bundle = Case(levels=2, hidden=(16,)), rays(5)
    parameters = torch.cat([tensor.flatten() for layer in case.layers for tensor in layer])
    layout = (case.offsets, case.resolutions, True, False, True, 2, [4, 16, 4], 1.5, 2.0, 4.0, 1)
    op = torch.ops.fusedfield.field_query_rays
    leaves = case.table.clone().requires_grad_(), parameters.clone().requires_grad_()
    torch.library.opcheck(op.default, (*bundle, 0.5, *leaves, *layout, 4, True))
    torch.library.opcheck(op.default, (*bundle, 0.5, case.table, parameters, *layout, 1, False))
    assert op(*bundle, 0.5, case.table, parameters, *layout, 4, False)[-1].numel() == 0
