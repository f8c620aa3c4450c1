"""A recorded UNet; where there is no GPU, by a recorder that keeps the contract of a CUDA graph: fixed places."""

from __future__ import annotations

import pytest
import torch

from guidance.graphs import Recorded, cuda_graph
from guidance.types import GuidanceBatch
from sd_case import batch, load


class Fake:
    """Plays what the function does on the tensors of the recording, into the tensor that it left then."""

    def __init__(self, error: Exception | None = None):
        self.error, self.recorded, self.played = error, 0, 0

    def __call__(self, function, inputs):
        if self.error:
            raise self.error
        result = function(*inputs).clone()
        self.recorded += 1

        def play():
            self.played += 1
            result.copy_(function(*inputs))

        return play, result


def test_what_is_played_is_what_the_function_gives_and_stays_as_it_was():
    fake = Fake()
    recorded = Recorded(lambda x, y: x * y, fake)
    given = [(torch.randn(3), torch.randn(3)) for _ in range(4)]
    results = [recorded(x, y) for x, y in given]
    assert (fake.recorded, fake.played) == (1, 3)  # the first time it is called
    assert all(torch.equal(result, x * y) for result, (x, y) in zip(results, given, strict=True))


def test_every_shape_and_type_has_a_recording_of_its_own():
    fake = Fake()
    recorded = Recorded(torch.square, fake)
    for _ in range(3):
        for x in (torch.randn(3), torch.randn(4), torch.randn(3).double()):
            assert torch.equal(recorded(x), x * x)
    assert (fake.recorded, fake.played) == (3, 6)


def test_a_recording_that_fails_is_said_once_and_the_function_called(caplog):
    recorded = Recorded(torch.square, Fake(RuntimeError("operation not permitted when stream is capturing\nmore")))
    x = torch.randn(3)
    assert all(torch.equal(recorded(x), x * x) for _ in range(4))
    assert caplog.messages == [
        "no CUDA graph (operation not permitted when stream is capturing): kernels are started one by one"
    ]


def test_a_lack_of_memory_is_left_to_the_plans():
    recorded = Recorded(torch.square, Fake(torch.OutOfMemoryError("CUDA out of memory")))
    recorded(torch.ones(3))
    with pytest.raises(torch.OutOfMemoryError):
        recorded(torch.ones(3))


def gradient(guidance, seed):
    given: GuidanceBatch = batch(seed=seed)
    return torch.autograd.grad(guidance(given).loss, given.images)[0]


def test_a_recorded_unet_guides_as_one_that_is_not(prior):
    fake = Fake()
    plain, recorded = load(prior), load(prior)
    recorded.unet_pass.recorder = fake
    for seed in range(4):
        assert torch.equal(gradient(plain, seed), gradient(recorded, seed))
    assert (fake.recorded, fake.played) == (1, 3)


def test_weights_that_a_smaller_plan_makes_anew_are_recorded_anew(prior):
    fake = Fake()
    plain, recorded = load(prior), load(prior)
    recorded.unet_pass.recorder = fake
    for _ in range(3):
        for seed in range(3):
            assert torch.equal(gradient(plain, seed), gradient(recorded, seed))
        assert not recorded.unet_pass.recordings or fake.recorded
        plain.economise(), recorded.economise()
        assert not recorded.unet_pass.recordings
    assert fake.recorded >= 3


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_cuda_graph_gives_the_bits_of_its_kernels(prior):
    guidance = load(prior, device="cuda")
    assert guidance.unet_pass.recorder is cuda_graph
    noisy, words = torch.randn(2, *guidance.latent_shape, device="cuda"), guidance.prompts.views[:2]
    for timestep in (10, 500, 900, 20):
        t = torch.full((2,), timestep, device="cuda")
        with torch.no_grad():
            expected = guidance.unet_pass.function(noisy, t, words)
        assert torch.equal(guidance.unet_pass(noisy, t, words), expected)
    assert len(guidance.unet_pass.recordings) == 1
