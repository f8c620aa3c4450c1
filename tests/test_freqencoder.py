import math

import pytest
import torch

import cases
import extension
from freqencoder import FreqEncoder, freq_encode, reference

SIZES = [0, 1, 31, 257]  # empty, one, around a vector and a block


def coordinates(n, dim, device, scale=4.0):
    return (2 * cases.points(n, dim, device=device) - 1) * scale


@pytest.mark.parametrize("points", SIZES)
@pytest.mark.parametrize("dim", [1, 3, 70])
@pytest.mark.parametrize("degree", [0, 1, 4, 10])
def test_freq_encode_matches_reference(device, points, dim, degree):
    x = coordinates(points, dim, device).requires_grad_()
    x_ref = x.detach().double().requires_grad_()
    y, y_ref = freq_encode(x, degree), reference.freq_encode(x_ref, degree)
    torch.testing.assert_close(y.double(), y_ref, rtol=0, atol=3e-7)  # two units in the last place of 1
    v = cases.cotangent(y)
    g, g_ref = torch.autograd.grad(y, x, v)[0], torch.autograd.grad(y_ref, x_ref, v.double())[0]
    torch.testing.assert_close(g.double(), g_ref, rtol=0, atol=1e-6 * 2**degree)  # slopes grow with the octave


def test_columns_have_closed_form(device):
    x = coordinates(31, 2, device)
    y = freq_encode(x, 3).cpu()
    for n, row in enumerate(x.tolist()):
        expected = [*row]
        for f in range(3):
            expected += [math.sin(2**f * v) for v in row] + [math.cos(2**f * v) for v in row]
        torch.testing.assert_close(y[n], torch.tensor(expected), rtol=0, atol=3e-7)


@pytest.mark.parametrize("scale", [1e2, 1e5, 1e8, 1e12, 1e30])
def test_large_arguments_stay_exact(device, scale):
    x = coordinates(257, 1, device, scale)
    y = freq_encode(x, 4).cpu()
    for n, value in enumerate(x[:, 0].tolist()):
        expected = [wave(2**f * value) for f in range(4) for wave in (math.sin, math.cos)]
        torch.testing.assert_close(y[n, 1:], torch.tensor(expected), rtol=0, atol=3e-7)


def test_sine_and_cosine_lie_on_the_circle(device):
    y = freq_encode(coordinates(257, 3, device, 1e6), 8)[:, 3:].unflatten(1, (8, 2, 3))
    torch.testing.assert_close(y.square().sum(2), torch.ones_like(y[:, :, 0]), rtol=0, atol=5e-7)


def test_infinite_and_nan_inputs_give_nan(device):
    y = freq_encode(torch.tensor([[math.inf], [math.nan]], device=device), 2)
    assert y[:, 1:].isnan().all()


def test_gradcheck_in_float64(device):
    x = coordinates(5, 3, device).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda v: freq_encode(v, 4), x)


def test_operators_pass_opcheck(device):
    if not extension.load("freqencoder"):
        pytest.skip("no compiled operators")
    x = coordinates(31, 3, device)
    y = freq_encode(x, 4)
    torch.library.opcheck(torch.ops.freqencoder.freq_encode, (x.clone().requires_grad_(), 4))
    torch.library.opcheck(torch.ops.freqencoder.freq_encode_backward, (cases.cotangent(y), y, 4))


def test_a_second_derivative_is_refused(device):
    if not extension.load("freqencoder"):
        pytest.skip("the reference has it")
    x = coordinates(5, 3, device).requires_grad_()
    (gradient,) = torch.autograd.grad(freq_encode(x, 4).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="one derivative, a second was asked for"):
        gradient.sum().backward()


def test_strided_and_half_inputs_are_taken(device):
    x = coordinates(62, 3, device, 1.0)
    assert torch.equal(freq_encode(x[::2], 4), freq_encode(x[::2].contiguous(), 4))
    assert freq_encode(x.bfloat16(), 4).dtype == torch.bfloat16


def test_thread_count_does_not_change_a_bit():
    x, threads = coordinates(5000, 3, "cpu"), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = freq_encode(x, 6)
        torch.set_num_threads(2)
        assert torch.equal(one, freq_encode(x, 6))
    finally:
        torch.set_num_threads(threads)


def test_module_keeps_leading_dimensions(device):
    encoder = FreqEncoder(input_dim=3, degree=6)
    assert encoder.output_dim == 39
    assert encoder(torch.rand(2, 5, 3, device=device)).shape == (2, 5, 39)


def test_degree_out_of_range_is_refused():
    with pytest.raises(ValueError, match="degree in 0..32"):
        freq_encode(torch.rand(4, 3), 33)


def test_wrong_shape_is_refused():
    with pytest.raises(ValueError, match=r"\[N, D\]"):
        freq_encode(torch.rand(4), 4)
