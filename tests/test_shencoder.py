import numpy as np
import pytest
import torch
from numpy.polynomial import legendre

import cases
import extension
from shencoder import SHEncoder, reference, sh_encode

SIZES = [0, 1, 31, 257]  # empty, one, around a vector and a block
TOLERANCE = 2e-6  # relative to the largest: 8 steps of a float32 recurrence


def assert_near(actual: torch.Tensor, expected: torch.Tensor) -> None:
    assert actual.shape == expected.shape
    scale = max(1.0, expected.abs().max().item()) if expected.numel() else 1.0
    torch.testing.assert_close(actual.double(), expected.double(), rtol=0, atol=TOLERANCE * scale)


@pytest.mark.parametrize("points", SIZES)
@pytest.mark.parametrize("degree", range(1, 9))
def test_sh_encode_matches_reference(device, points, degree):
    x = cases.directions(points, device=device).requires_grad_()
    x_ref = x.detach().double().requires_grad_()
    y, y_ref = sh_encode(x, degree), reference.sh_encode(x_ref, degree) + 0 * x_ref.sum()  # degree 1 is constant
    assert_near(y, y_ref)
    v = cases.cotangent(y)
    assert_near(torch.autograd.grad(y, x, v)[0], torch.autograd.grad(y_ref, x_ref, v.double())[0])


def test_vectors_off_the_sphere_match_reference_too(device):
    x = 2 * cases.points(257, device=device) - 1
    assert_near(sh_encode(x, 8), reference.sh_encode(x.double(), 8))


def test_harmonics_are_orthonormal_on_the_sphere():
    # Gauss-Legendre in z and equal steps in azimuth are exact for polynomials of order 14 = 7 + 7.
    z, weight = (torch.from_numpy(a) for a in legendre.leggauss(8))
    azimuth = torch.arange(16, dtype=torch.float64) * (2 * np.pi / 16)
    ring = (1 - z**2).sqrt()[:, None]
    x = torch.stack(torch.broadcast_tensors(ring * azimuth.cos(), ring * azimuth.sin(), z[:, None]), -1).reshape(-1, 3)
    y = sh_encode(x.float(), 8).double()
    gram = y.T @ (y * (weight[:, None].expand(8, 16).reshape(-1, 1) * 2 * np.pi / 16))
    torch.testing.assert_close(gram, torch.eye(64, dtype=torch.float64), rtol=0, atol=1e-5)


def test_first_orders_are_those_of_instant_ngp(device):
    d = cases.directions(31, device=device)
    x, y, z = d.unbind(-1)
    expected = [
        0.28209479177387814 + 0 * x,
        -0.48860251190291987 * y,
        0.48860251190291987 * z,
        -0.48860251190291987 * x,
        1.0925484305920792 * x * y,
        -1.0925484305920792 * y * z,
        0.94617469575755997 * z * z - 0.31539156525251999,
        -1.0925484305920792 * x * z,
        0.54627421529603959 * (x * x - y * y),
    ]
    assert_near(sh_encode(d, 3), torch.stack(expected, -1))


def test_zonal_harmonics_are_legendre_polynomials(device):
    d = cases.directions(257, device=device)
    y = sh_encode(d, 8)
    for order in range(8):
        polynomial = legendre.Legendre.basis(order)(d[:, 2].double().cpu().numpy())
        expected = torch.from_numpy(np.sqrt((2 * order + 1) / (4 * np.pi)) * polynomial).to(device)
        assert_near(y[:, order * (order + 1)], expected)


def test_addition_theorem_makes_the_power_of_an_order_constant(device):
    y = sh_encode(cases.directions(31, device=device), 8)
    for order in range(8):
        power = y[:, order**2 : (order + 1) ** 2].square().sum(-1)
        assert_near(power, torch.full_like(power, (2 * order + 1) / (4 * np.pi)))


def test_gradcheck_in_float64(device):
    x = cases.directions(5, device=device, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda d: sh_encode(d, 8), x)


def test_operators_pass_opcheck(device):
    if not extension.load("shencoder"):
        pytest.skip("no compiled operators")
    x = cases.directions(31, device=device)
    sh_encode(x, 4)
    torch.library.opcheck(torch.ops.shencoder.sh_encode, (x.clone().requires_grad_(), 4))
    torch.library.opcheck(torch.ops.shencoder.sh_encode_backward, (sh_encode(x, 4), x, 4))


def test_a_second_derivative_is_refused(device):
    if not extension.load("shencoder"):
        pytest.skip("the reference has it")
    x = cases.directions(5, device=device).requires_grad_()
    (gradient,) = torch.autograd.grad(sh_encode(x, 4).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="one derivative, a second was asked for"):
        gradient.sum().backward()


def test_strided_and_half_inputs_are_taken(device):
    x = cases.directions(62, device=device)
    assert torch.equal(sh_encode(x[::2], 4), sh_encode(x[::2].contiguous(), 4))
    half = sh_encode(x.half(), 4)
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float(), sh_encode(x.half().float(), 4), rtol=1e-3, atol=1e-3)  # half's rounding


def test_thread_count_does_not_change_a_bit():
    x, threads = cases.directions(5000), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = sh_encode(x, 4)
        torch.set_num_threads(2)
        assert torch.equal(one, sh_encode(x, 4))
    finally:
        torch.set_num_threads(threads)


def test_module_keeps_leading_dimensions(device):
    encoder = SHEncoder(degree=4)
    assert encoder.output_dim == 16
    assert encoder(torch.rand(2, 5, 3, device=device)).shape == (2, 5, 16)


@pytest.mark.parametrize("degree", [0, 9])
def test_degree_out_of_range_is_refused(degree):
    with pytest.raises(ValueError, match="degree in 1..8"):
        sh_encode(torch.rand(4, 3), degree)


def test_wrong_shape_is_refused():
    with pytest.raises(ValueError, match=r"\[N, 3\]"):
        sh_encode(torch.rand(4, 2), 4)
