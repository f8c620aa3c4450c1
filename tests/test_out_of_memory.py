"""A run whose memory runs out goes on with a guidance that takes less, or ends saved and says what takes less."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from guidance import memory
from nerf.watch import OutOfMemory, concerns, lacks_memory
from raymarching import flatten_rays
from tiny_run import CPU, STEPS
from tiny_run import weights as learnt


def fail(trainer, times, message="CUDA out of memory", **attributes):
    """The guidance runs out of memory the first `times` it is asked in step 3, and has other attributes."""
    prior, asked = trainer.guidance["toybox"], []

    class Fails:
        def __call__(self, batch):
            if batch.step == 2 and len(asked) < times:
                asked.append(batch.step)
                raise torch.OutOfMemoryError(message)
            return prior(batch)

        def __getattr__(self, name):
            return getattr(prior, name)

    trainer.guidance = {"toybox": Fails()}
    vars(trainer.guidance["toybox"]).update(attributes)


def test_a_step_that_runs_out_of_memory_is_taken_again_with_less(make, capsys):
    trainer = make()
    fail(trainer, times=2)
    assert trainer.train() and trainer.step == STEPS
    said = "".join(capsys.readouterr())
    assert "out of memory in step 3: toybox goes on with less (8-bit UNet)" in said
    assert "(8-bit UNet, pictures of 3/4 the side)" in said


def test_where_giving_something_up_runs_out_of_memory_the_next_plan_goes_on_with_it(make, monkeypatch, capsys):
    trainer, quantise, tried = make(), memory.quantise, []

    def runs_out(weight):
        tried.append(weight)
        if len(tried) == 3:  # two layers are done
            raise torch.OutOfMemoryError("CUDA out of memory")
        return quantise(weight)

    monkeypatch.setattr(memory, "quantise", runs_out)
    fail(trainer, times=1)
    assert trainer.train() and trainer.step == STEPS
    assert "with less (8-bit UNet, pictures of 3/4 the side)" in "".join(capsys.readouterr())
    unet = trainer.guidance["toybox"].unet
    layers = [m for m in unet.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    assert len(layers) == len(tried) - 1 and all(layer.weight.dtype == torch.int8 for layer in layers)


def test_pictures_that_run_out_of_memory_are_left_out_and_change_nothing(make, capsys):
    quiet, loud = make("quiet"), make("loud")
    loud.save_interval = 2

    def validate(step):
        loud.renderer.eval()
        raise torch.OutOfMemoryError("CUDA out of memory")

    loud.validate = validate
    assert quiet.train() and loud.train()
    assert "step 2: out of memory for its pictures" in "".join(capsys.readouterr())
    assert all(torch.equal(value, learnt(loud)[name]) for name, value in learnt(quiet).items())


def failing(error):
    def fail(*_, **__):
        raise error

    return fail


FULL = "CUDA out of memory. Tried to allocate 20.00 MiB. GPU {} has a total capacity of 7.61 GiB"
OTHER = torch.device("cuda:1")


def test_when_nothing_is_left_to_give_up_the_run_is_saved_and_says_what_takes_less(make):
    trainer = make()
    fail(trainer, times=99)
    with pytest.raises(OutOfMemory, match="in step 3: the same command with smaller --w") as caught:
        trainer.train()
    assert "\n" not in str(caught.value) and trainer.guidance["toybox"].plan is memory.PLANS[-1]
    assert make(w=8, h=8).step == 2


def test_a_guidance_gives_nothing_up_for_the_gpu_of_the_renderer(make):
    trainer = make()
    fail(trainer, times=99, message=FULL.format(0), device=OTHER)
    before = trainer.guidance["toybox"].plan
    with pytest.raises(OutOfMemory, match="smaller --w and --h"):
        trainer.train()
    assert trainer.guidance["toybox"].plan is before


def test_a_run_that_fails_in_its_first_step_leaves_no_checkpoint(make):
    trainer = make()
    trainer.renderer.render = failing(torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(OutOfMemory, match="in step 1"):
        trainer.train()
    assert not (trainer.workspace.absolute() / "checkpoints").exists()


def test_a_guidance_gives_something_up_for_its_own_gpu(make, capsys):
    trainer = make()
    fail(trainer, times=1, message=FULL.format(1), device=OTHER)
    assert trainer.train() and trainer.step == STEPS
    assert "toybox goes on with less" in "".join(capsys.readouterr())


def test_what_takes_less_on_the_gpu_of_the_guidance_is_not_the_size_of_the_picture(make):
    trainer = make()
    fail(trainer, times=99, message=FULL.format(1), device=OTHER)
    with pytest.raises(OutOfMemory, match="with --batch_size 1 or another --guidance_device goes on"):
        trainer.train()


@pytest.mark.parametrize(
    "said", [FULL.format(1), "Allocation on device 1 would exceed allowed memory. (out of memory)"]
)
def test_torch_says_whose_memory_it_was(said):
    devices = [torch.device(name) for name in ("cpu", "cuda:0", "cuda:1")]
    assert [concerns(torch.OutOfMemoryError(said), device, CPU) for device in devices] == [False, False, True]
    assert all(concerns(torch.OutOfMemoryError("CUDA out of memory"), device, CPU) for device in devices)


@pytest.fixture(params=[None, OTHER], ids=["shared", "alone"])
def operator_fails(make, request):
    """A trainer in whose step 3 a compiled operator asks for too much, once, and where its guidance is said to be."""
    trainer, fails = make(), [2]
    fail(trainer, times=0, **({"device": request.param} if request.param else {}))
    render = trainer.renderer.render

    def rendered(*args, **options):
        if trainer.step in fails:
            fails.remove(trainer.step)
            ask_for_too_much(CPU)
        return render(*args, **options)

    trainer.renderer.render = rendered
    return trainer, request.param


def ask_for_too_much(device):
    flatten_rays(torch.zeros(1, 2, dtype=torch.int32, device=device), 10**13)


def test_memory_that_a_compiled_operator_lacks_is_the_renderers(operator_fails):
    trainer, guided_on = operator_fails
    if guided_on is None:
        assert trainer.train() and trainer.guidance["toybox"].plan is not memory.PLANS[0]
        return
    with pytest.raises(OutOfMemory, match="in step 3: the same command with smaller --w"):
        trainer.train()
    assert trainer.guidance["toybox"].plan is memory.PLANS[0]


def test_every_way_to_lack_memory_is_known(device):
    with pytest.raises(RuntimeError) as caught:
        ask_for_too_much(device)
    assert lacks_memory(caught.value)
    texts = (
        "CUDA error: out of memory",
        "cuBLAS: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "GET was unable to find an engine to execute this computation",
        "gpu_memory.h:563 cuMemCreate(&m_handles.back(), n_bytes, &prop, 0) failed: CUDA_ERROR_OUT_OF_MEMORY",
    )
    assert all(lacks_memory(RuntimeError(text)) for text in texts) and lacks_memory(MemoryError())
    assert not lacks_memory(RuntimeError("shapes disagree")) and not lacks_memory(ValueError("out of memory"))
