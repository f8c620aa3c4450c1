"""The fused field on tensor cores: on a GPU where there is one, and emulated (test_cuda_emulated.py)."""

import os

import pytest
import torch

import cases
import extension
import fusedfield
from field_case import Case, assert_near, points
from test_fusedfield_bf16 import assert_nearly_all_near

SPLIT = 3e-5  # of a number that is the sum of two bf16: their products but for 2^-16 of it
DEVICES = [
    *(["cpu"] if "TADPOLE_TEST_LIBRARIES" in os.environ else []),
    *([pytest.param("cuda", marks=pytest.mark.cuda)] if torch.cuda.is_available() else []),
]
if not DEVICES:
    pytest.skip("no GPU, and no emulation", allow_module_level=True)


@pytest.fixture(autouse=True, params=DEVICES)
def device(request):
    assert extension.load("fusedfield"), "the operators under test could not be built"
    if not torch.ops.fusedfield.has_tensor_cores(torch.empty(0, device=request.param)):
        assert request.param == "cuda" and torch.cuda.get_device_capability() < (8, 0)
        pytest.skip("no tensor cores for bf16")
    return torch.device(request.param)


@pytest.fixture
def check(device):
    """Compares the operators with their reference for points in and around the box."""

    def compare(case, x, **options):
        case.to(device)
        x = x.to(device)
        assert fusedfield.serves(x, case.table, case.layers, case.options["mixed"])
        given = case.derivatives(case.query, x, **options), case.derivatives(case.reference, x, **options)
        assert_nearly_all_near(*given) if case.options["mixed"] else assert_near(*given, SPLIT)

    return compare


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("levels", [1, 7, 8, 9, 16])  # around a word's k of 16, and none of its columns unused
@pytest.mark.parametrize("hidden", [(32,), (64,), (32, 32), (64, 64)])
def test_field_and_its_gradients_match_reference(check, levels, hidden, mixed):
    check(Case(levels, hidden, mixed=mixed), points(150))


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("count", [0, 1, 16, 17, 31, 63, 64, 65, 257])  # around a warp's samples and a block's
def test_sizes_match_reference(check, count, mixed):
    check(Case(levels=3, hidden=(32, 32), mixed=mixed), points(count))


@pytest.mark.parametrize("mixed", [False, True])
def test_what_is_no_number_stays_none(device, mixed):
    """A run that has diverged is to be seen."""
    case, x = Case(levels=2, hidden=(32, 32), mixed=mixed).to(device), points(64).to(device)
    case.layers[0][1][5] = float("nan")  # one channel of the first hidden layer
    assert all(output.isnan().all() for output in case.query(x, case.table, case.layers))


def test_more_samples_than_all_blocks_take_at_once_match_reference(check):
    check(Case(levels=1, hidden=(32,), mixed=True), points(64 * 264 + 100))


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.4])
@pytest.mark.parametrize("outputs", [1, 4])
def test_samples_without_a_gradient_cost_and_change_nothing(check, device, share, outputs, mixed):
    case, x = Case(levels=2, hidden=(32,), mixed=mixed), points(2100)  # three blocks of the list
    reached = cases.points(len(x), 1)[:, 0].to(device) < share
    check(case, x, reached=reached, outputs=outputs)
    x = x.to(device)
    gradients = case.derivatives(case.query, x, reached=reached, outputs=outputs)[2:]
    x[~reached] = float("nan")  # which would show
    assert_near(case.derivatives(case.query, x, reached=reached, outputs=outputs)[2:], gradients)


@pytest.mark.parametrize("channel", range(4))
def test_samples_with_a_gradient_in_one_channel_alone_have_one(device, channel):
    case, x = Case(levels=2, hidden=(32,)).to(device), points(100).to(device)
    table = case.table.requires_grad_()

    def gradient(function):
        sigma, albedo = function(x, table, case.layers)
        return torch.autograd.grad(torch.cat([sigma[:, None], albedo], 1)[:, channel].sum(), table)

    assert gradient(case.query)[0].any()
    assert_near(gradient(case.query), gradient(case.reference), SPLIT)


def test_more_samples_than_the_list_has_threads_and_blocks_have_their_gradient(check, device):
    if device.type == "cpu":
        pytest.skip("takes minutes under emulation")
    count = 1024 * 1024 + 3000
    reached = cases.points(count, 1)[:, 0].to(device) < 1e-3
    check(Case(levels=1, hidden=(32,)), points(count), reached=reached)


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("activation", ["none", "exp", "softplus"])
@pytest.mark.parametrize("options", [{"outputs": 1}, {"max_level": 0.4}])
def test_density_alone_and_levels_held_back_match_reference(check, options, activation, mixed):
    check(Case(mixed=mixed), points(100), activation=activation, **options)


@pytest.mark.parametrize("mixed", [False, True])
def test_points_outside_encode_to_zeros_and_give_no_gradient(check, mixed):
    case, x = Case(mixed=mixed), points(100)
    x[::3] += 4
    check(case, x)
    assert (case.derivatives(case.query, x[::3].to(case.table.device))[2] == 0).all()


@pytest.mark.parametrize("gridtype, interpolation", [("tiled", "linear"), ("tiled", "smoothstep"), ("hash", "linear")])
def test_every_grid_matches_reference(check, gridtype, interpolation):
    check(Case(levels=4, gridtype=gridtype, interpolation=interpolation), points(100))


@pytest.mark.parametrize("mixed, numbers", [(False, 128), (True, 64)])
def test_what_is_kept_for_the_backward_pass_is_the_encoding(device, mixed, numbers):
    case = Case(levels=16, mixed=mixed).to(device)
    table = case.table.requires_grad_()

    def kept(count):
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.nbytes) or t, lambda t: t):
            case.query(points(count).to(device), table, case.layers)
        return sum(saved)

    assert kept(200) - kept(100) == (numbers + 3 * 4) * 100


@pytest.mark.parametrize("mixed", [False, True])
def test_values_and_the_gradients_of_the_layers_have_the_same_bits_every_time(device, mixed):
    case, x = Case(mixed=mixed).to(device), points(300).to(device)
    first, second = (case.derivatives(case.query, x) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first[:2] + first[3:], second[:2] + second[3:], strict=True))


def test_what_has_no_kernel_takes_the_reference(device):
    for hidden, levels in (((16,), 2), ((64, 32), 2), ((64, 64, 64), 2), ((64,), 17)):
        case = Case(levels, hidden).to(device)
        assert not fusedfield.serves(points(3).to(device), case.table, case.layers)
    assert not fusedfield.serves(points(3).to(device), case.table, Case(levels=17).layers, rays=True)
