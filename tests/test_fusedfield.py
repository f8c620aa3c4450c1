import pytest
import torch

import cases
import extension
import fusedfield
from field_case import Case, assert_near, points
from fusedfield import reference
from gridencoder.grid import active_levels
from nerf.fields import HashGridField


@pytest.fixture(autouse=True)
def native():
    assert extension.load("fusedfield"), "the operators under test could not be built"


@pytest.mark.parametrize("gridtype,interpolation", [("hash", "smoothstep"), ("hash", "linear"), ("tiled", "linear")])
@pytest.mark.parametrize("levels", [1, 8, 11, 16])
def test_field_and_its_gradients_match_reference(path, levels, gridtype, interpolation):
    case, x = Case(levels, gridtype=gridtype, interpolation=interpolation), points(300)
    assert_near(case.derivatives(case.query, x), case.derivatives(case.reference, x))


def test_field_and_its_gradients_match_float64():
    case, x = Case(), points(300)
    # A position is rounded to 1e-7 of the box, which is 7e-6 cells of the finest level.
    assert_near(case.derivatives(case.query, x), case.derivatives(case.reference, x, torch.float64), tolerance=3e-5)


@pytest.mark.parametrize("hidden", [(64, 64), (16,), (40, 24)])
def test_the_layers_that_are_timed_are_those_of_the_network(path, hidden):
    case, encoding, rounds = Case(levels=5, hidden=hidden), cases.points(5 * 48, 2).view(5, 48, 2), 3
    flat = torch.cat([p.flatten() for layer in case.layers for p in layer])
    channels, count = torch.ops.fusedfield.layers(encoding, flat, [10, *hidden, 4], False, rounds)
    expected = encoding.permute(1, 0, 2).flatten(1)
    for i, layer in enumerate(case.layers):
        expected = torch.nn.functional.linear(expected.relu() if i else expected, *layer)
    assert_near([channels.T], [expected])
    assert count == rounds * 48 * torch.get_num_threads()


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


@pytest.mark.parametrize("mixed", [False, True])
def test_what_is_no_number_stays_none(path, mixed):
    """A run that has diverged is to be seen."""
    if mixed and not torch.ops.fusedfield.has_bf16():
        pytest.skip("no bf16 here")
    case = Case(levels=2, hidden=(32, 32), mixed=mixed)
    case.layers[0][1][5] = float("nan")  # one channel of the first hidden layer
    assert all(output.isnan().all() for output in case.query(points(64), case.table, case.layers))


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


def test_operators_pass_opcheck(path):
    case, x = Case(levels=2, hidden=(16,)), points(31)
    table = case.table.requires_grad_()
    parameters = torch.cat([tensor.flatten() for layer in case.layers for tensor in layer]).requires_grad_()
    layout = (case.offsets, case.resolutions, True, False, True, 2, [4, 16, 4], 1.5, 2.0, 4.0, 1, False)
    ops = torch.ops.fusedfield
    for outputs in (1, 4):
        torch.library.opcheck(ops.field_query.default, (x, table, parameters, *layout, outputs, True))
        sigma, albedo, saved = (t.detach() for t in ops.field_query(x, table, parameters, *layout, outputs, True))
        assert (saved.view(2, 32, 2)[:, 31:] == 0).all()  # what fills up the last vector
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


def test_the_hash_grid_field_uses_the_operator_but_for_derivatives_in_positions_and_bf16_without_it(monkeypatch):
    used = []
    monkeypatch.setattr(fusedfield, "field_query", lambda x, *_, **__: used.append(len(x)) or (x[:, 0], x))
    field, mixed = HashGridField(num_levels=2), HashGridField(num_levels=2, precision="bf16")
    x = points(5)
    field.query(x), field.density(x), field.potential(x), mixed.potential(x), mixed.query(x)
    served = len(used)
    assert used == [5] * (4 + torch.ops.fusedfield.has_bf16())
    field.normal(x, "analytic"), field.potential(x.clone().requires_grad_())
    monkeypatch.setenv("TADPOLE_CPU_PATH", "baseline")
    mixed.query(x)  # in the parts it is made of
    assert len(used) == served
