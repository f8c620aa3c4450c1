"""A recorded UNet: by TorchScript, and by a recorder that keeps the contract of a CUDA graph, fixed places."""

from __future__ import annotations

import pytest
import torch

from guidance.graphs import CudaGraphs, Recorded, TorchScript, in_places
from guidance.types import GuidanceBatch
from nerf import build
from nerf.config import Config
from sd_case import batch, load


class Fake:
    """Plays what the function does on the tensors of the recording, into the tensor that it left then."""

    name, after, keeps_memory = "CUDA graph", 1, True

    def __init__(self, error: Exception | None = None):
        self.error, self.recorded, self.played = error, 0, 0

    def __call__(self, function, inputs):
        if self.error:
            raise self.error
        places = tuple(tensor.clone() for tensor in inputs)
        result = function(*places).clone()
        self.recorded += 1

        def play():
            self.played += 1
            result.copy_(function(*places))

        return in_places(play, places, result)


def test_what_is_played_is_what_the_function_gives_and_stays_as_it_was():
    fake = Fake()
    recorded = Recorded(lambda x, y: x * y, lambda: fake)
    given = [(torch.randn(3), torch.randn(3)) for _ in range(4)]
    results = [recorded(x, y) for x, y in given]
    assert (fake.recorded, fake.played) == (1, 3)  # the first time it is called
    assert all(torch.equal(result, x * y) for result, (x, y) in zip(results, given, strict=True))


def test_every_shape_and_type_has_a_recording_of_its_own():
    fake = Fake()
    recorded = Recorded(torch.square, lambda: fake)
    for _ in range(3):
        for x in (torch.randn(3), torch.randn(4), torch.randn(3).double()):
            assert torch.equal(recorded(x), x * x)
    assert (fake.recorded, fake.played) == (3, 6)


@pytest.mark.parametrize(
    "error",
    [RuntimeError("operation not permitted\nmore"), torch.OutOfMemoryError("CUDA out of memory\nmore"), TypeError()],
)
def test_a_recording_that_fails_is_said_once_and_the_function_called(caplog, error):
    recorded = Recorded(torch.square, lambda: Fake(error))
    x = torch.randn(3)
    assert all(torch.equal(recorded(x), x * x) for _ in range(4))
    reason = f"{type(error).__name__}: {error}".splitlines()[0]
    assert caplog.messages == [f"no CUDA graph, kernels are started one by one as with --eager ({reason})"]


class Stale(Fake):
    """Plays the values it was recorded with, as where the host had a say in them."""

    def __call__(self, function, inputs):
        return in_places(lambda: None, inputs, function(*inputs).clone())


@pytest.mark.parametrize("broken", [1.0, torch.nan])
def test_a_recording_that_plays_something_else_is_noticed_and_given_up(caplog, broken):
    recorded = Recorded(lambda x: x * x * 2, lambda: Stale())
    given = [broken * torch.ones(3), broken * torch.ones(3), torch.tensor([1.0, 3.0, 3.0]), torch.full((3,), 4.0)]
    results = [recorded(x) for x in given]
    assert all(torch.equal(result, x * x * 2) for result, x in zip(results[2:], given[2:], strict=True))
    reason = "(one was recorded, and plays something else)"
    assert caplog.messages == [f"no CUDA graph, kernels are started one by one as with --eager {reason}"]
    assert not recorded.recordings


def test_a_function_that_overflows_does_not_cost_its_recording():
    recorded = Recorded(torch.square, Fake)
    for value in (1.0, 1.0, 1e38, 2.0):
        recorded(torch.full((3,), value))
    assert recorded.recordings


def record(function, fake):
    """As on a GPU."""
    function.make_recorder = lambda: fake
    function.forget()


def gradient(guidance, seed):
    given: GuidanceBatch = batch(seed=seed)
    return torch.autograd.grad(guidance(given).loss, given.images)[0]


def test_a_recorded_unet_guides_as_one_that_is_not(prior):
    fake = Fake()
    plain, recorded = load(prior), load(prior)
    record(recorded.unet_pass, fake)
    for seed in range(4):
        assert torch.equal(gradient(plain, seed), gradient(recorded, seed))
    assert (fake.recorded, fake.played) == (1, 3)


def test_for_memory_the_graph_is_given_up_first_and_for_good(prior):
    fake, plain, recorded = Fake(), load(prior), load(prior)
    record(recorded.unet_pass, fake)
    for seed in range(3):
        assert torch.equal(gradient(plain, seed), gradient(recorded, seed))
    assert recorded.economise() == "no CUDA graph" and recorded.plan is plain.plan
    assert recorded.economise() == plain.economise()
    for seed in range(3):
        assert torch.equal(gradient(plain, seed), gradient(recorded, seed))
    assert not recorded.unet_pass.recordings and (fake.recorded, fake.played) == (1, 2)


def test_weights_that_have_moved_are_recorded_anew():
    weight, fake = torch.ones(3), Fake()
    recorded = Recorded(lambda x: x * weight, lambda: fake)
    x = torch.randn(3)
    assert all(torch.equal(recorded(x), x) for _ in range(3))
    weight = torch.full((3,), 2.0)
    recorded.forget()
    assert all(torch.equal(recorded(x), 2 * x) for _ in range(3)) and fake.recorded == 2


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_cuda_graph_gives_the_bits_of_its_kernels(prior):
    guidance = load(prior, device="cuda")
    assert isinstance(guidance.unet_pass.recorder, CudaGraphs)
    noisy, words = torch.randn(2, *guidance.latent_shape, device="cuda"), guidance.prompts.views[:2]
    for timestep in (10, 500, 900, 20):
        t = torch.full((2,), timestep, device="cuda")
        with torch.no_grad():
            expected = guidance.unet_pass.function(noisy, t, words)
        assert torch.equal(guidance.unet_pass(noisy, t, words), expected)
    assert len(guidance.unet_pass.recordings) == 1


def passes(guidance, count):
    """What is played, beside what the UNet gives."""
    words = guidance.prompts.views[:2]
    for i in range(count):
        noisy, t = torch.randn(2, *guidance.latent_shape), torch.full((2,), 80 * i)
        with torch.no_grad():
            yield guidance.unet_pass(noisy, t, words), guidance.unet_pass.function(noisy, t, words)


def test_torchscript_gives_the_bits_of_the_unet():
    guidance = load(str(Config().guidance.toybox_dir), text="a frog")
    assert all(torch.equal(given, expected) for given, expected in passes(guidance, TorchScript.after))
    assert not guidance.unet_pass.recordings
    assert all(torch.equal(given, expected) for given, expected in passes(guidance, 4))
    (recording,) = guidance.unet_pass.recordings.values()
    assert isinstance(recording.play, torch.jit.ScriptFunction) and recording.played == 4


def test_a_function_that_decides_by_values_is_noticed(caplog):
    recorded = Recorded(lambda x: x if x.sum() > 0 else -x, TorchScript)
    results = [recorded((-1) ** i * torch.ones(3)) for i in range(TorchScript.after + 4)]
    assert all(torch.equal(result, torch.ones(3)) for result in results)
    reason = "(one was recorded, and plays something else)"
    assert caplog.messages == [f"no TorchScript, kernels are started one by one as with --eager {reason}"]


def test_torchscript_is_not_given_up_for_memory_but_never_unfolds_integers(prior):
    guidance = load(prior)
    for _ in passes(guidance, TorchScript.after + 2):
        pass
    assert guidance.economise() == "8-bit UNet" and guidance.plan.int8
    assert guidance.unet_pass.recorder is None
    assert all(torch.equal(given, expected) for given, expected in passes(guidance, TorchScript.after + 2))
    assert not guidance.unet_pass.recordings


@pytest.mark.parametrize("eager", [False, True])
def test_eager_records_nothing(prior, monkeypatch, eager):
    stopped = []
    monkeypatch.setattr(Recorded, "stop", lambda self: stopped.append(self))
    options = {"guidance": ("toybox",), "toybox_dir": str(prior), "device": "cpu", "text": "a frog"}
    priors = build.build_guidance(Config().updated({**options, "eager": eager}))
    assert stopped == [priors["toybox"].unet_pass] * eager
