"""adan_update against its reference, which tests/test_optim.py compares with the paper's algorithm."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

import extension
from adan import adan_update, reference


def made(shape, device="cpu", dtype=torch.float32):
    """A parameter, its gradient, and averages as they are in the middle of a run."""
    generator = torch.Generator().manual_seed(len(shape) + sum(shape))
    tensors = [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(6)]
    tensors[4].square_()
    return [tensor.to(device, dtype) for tensor in tensors]


SETTINGS = dict(step=7, lr=0.01, betas=(0.98, 0.92, 0.99), eps=1e-8, weight_decay=0.1)


@pytest.mark.parametrize("clip", [None, 0.3])
@pytest.mark.parametrize("shape", [(0,), (1,), (31,), (257,), (5, 1000), (1 << 16, 2)])
def test_the_update_is_the_references(device, shape, clip):
    assert extension.load("adan")
    clip = clip and torch.tensor(clip, device=device)
    ours, theirs = made(shape, device), made(shape, device, torch.float64)
    grad = ours[1].clone()
    adan_update(*ours, clip=clip, **SETTINGS)
    reference.adan_update(*theirs, clip=clip and clip.double(), **SETTINGS)
    assert torch.equal(ours[1], grad)
    for name, a, b in zip(("p", "grad", "average", "difference", "square", "previous"), ours, theirs, strict=True):
        assert_close(a.double(), b, rtol=2e-6, atol=2e-6, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("clip", [math.nan, math.inf])
@pytest.mark.parametrize("update", [adan_update, reference.adan_update])
def test_a_factor_that_is_not_finite_changes_nothing(device, update, clip):
    given, kept = made((257,), device), made((257,), device)
    update(*given, clip=torch.tensor(clip, device=device), **SETTINGS)
    assert all(torch.equal(a, b) for a, b in zip(given, kept, strict=True))


def test_the_number_of_threads_changes_nothing():
    results, threads = [], torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            tensors = made((100_003,))
            adan_update(*tensors, **SETTINGS)
            results.append(tensors[0])
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


def test_a_gradient_that_is_not_contiguous_is_read_in_order():
    ours, theirs = made((6, 4)), made((6, 4))
    ours[1] = ours[1].T.contiguous().T
    adan_update(*ours, **SETTINGS)
    adan_update(*theirs, **SETTINGS)
    assert torch.equal(ours[0], theirs[0])


def test_float64_and_parameters_with_gaps_take_the_reference():
    gaps = [tensor[::2] for tensor in made((62,))]
    dense = [tensor.clone() for tensor in gaps]
    double = [tensor.double() for tensor in gaps]
    for tensors in (gaps, dense, double):
        adan_update(*tensors, **SETTINGS)
    assert_close(gaps[0], dense[0], rtol=2e-6, atol=2e-6)
    assert_close(gaps[0].double(), double[0], rtol=2e-6, atol=2e-6)


def test_wrong_arguments_are_refused():
    tensors = made((3,))
    with pytest.raises(ValueError, match="shaped like the parameter"):
        adan_update(*tensors[:5], torch.zeros(4), **SETTINGS)
    with pytest.raises(ValueError, match="counts steps from 1, got 0"):
        adan_update(*tensors, **{**SETTINGS, "step": 0})
