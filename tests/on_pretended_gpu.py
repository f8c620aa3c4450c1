"""Runs where a GPU is pretended, for test_pretended_gpu.py.

Each line that it reads is a list, as JSON: a folder, and one of `steps FILE OPTIONS [tight | warm]`, `main OPTIONS` or
`faults FILE`. That is run in this folder by a process of its own, which finds everything imported; what it says goes
to said.txt there, and its exit status is printed.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import sys
from collections import Counter
from pathlib import Path
from unittest import mock

import torch
import torch._dynamo  # this and the names from diffusers and transformers: once, before all runs
from diffusers import AutoencoderKL, AutoencoderTiny, DDPMScheduler, UNet2DConditionModel  # noqa: F401
from transformers import CLIPTextModel, CLIPTokenizer  # noqa: F401

import conftest  # which loads TADPOLE_TEST_LIBRARIES
import guidance.pipeline
import main
import pretended_gpu
from guidance import stable_diffusion
from nerf import build, comparisons, driver, first_use, trainer
from nerf.config import Config
from nerf.renderers.room import Room
from nerf.seeding import step_generator
from test_guidance_graphs import Fake


def steps(target: str, options: str, how: str = "") -> None:
    """Losses, waits and tries of each step, as JSON; the guidance computes in the precision that it has on a CPU."""
    precision = stable_diffusion.default_precision(torch.device("cpu"))
    stable_diffusion.default_precision = lambda device: precision
    trainer.step_generator = as_on_a_cpu
    config, rows = Config().updated({**json.loads(options), "guidance": ("toybox",)}), []
    with pretended_gpu.Gpu() as gpu:
        made = build.build_trainer(config, torch.device("cuda", 0))
        made._backward = mock.Mock(side_effect=made._backward)
        if how == "warm":
            made.renderer.occupancy.warmup_updates = 1
        if how == "tight":
            give_too_little_room(made)
        for _ in range(config.training.iters):
            gpu.waits.clear()
            made._backward.reset_mock()
            before = waits_of_kernels()
            _, terms = made.train_step()
            waits = dict(gpu.waits + waits_of_kernels() - before)
            terms = {name: float(term) for name, term in terms.items()}
            rows.append({"terms": terms, "waits": waits, "tries": made._backward.call_count})
    Path(target).write_text(json.dumps(rows))


def give_too_little_room(made: trainer.Trainer) -> None:
    """In each step for one sample, then for all samples and one normal, then for all."""
    known, short = Room.rows, {id(made.renderer._samples): 1, id(made.renderer._normals): 2}  # tries

    def rows(room: Room) -> int | None:
        return 1 if known(room) and made._backward.call_count <= short[id(room)] else known(room)

    Room.rows = rows


def as_on_a_cpu(seed, step, device="cpu", *, stream="", views={}) -> torch.Generator:  # noqa: B006
    """Numbers for samples go on behind those for views, which on a GPU come from a generator of the host's."""
    made = step_generator(seed, step, device, stream=stream)
    if stream == "render":
        if made.device.type == "cuda":
            made.set_state(views[step].get_state())
        views[step] = made
    return made


def compare_here(device, names):
    """For first_use.compare_apart, whose process would find no GPU."""
    return [comparisons.judge(name, device) for name in names]


def waits_of_kernels() -> Counter:
    """By extension, whose operators torch cannot see waiting."""
    return Counter({library.stem: ctypes.CDLL(str(library)).emulation_waits() for library in conftest.LIBRARIES})


def faults(target: str) -> None:
    """What each line makes the host wait for, or its error, as JSON."""
    lines = (
        "(x + 1).cpu()",
        "x.sum().item()",
        "x.nonzero()",
        "x[x > 0]",
        "y.to('cuda')",
        "y.pin_memory().to('cuda', non_blocking=True)",
        "x * y",
        "x * torch.tensor(2.0)",
        "torch.autograd.grad((x.requires_grad_() * 2).sum(), x)[0].device.type",
    )
    seen = {}
    with pretended_gpu.Gpu() as gpu:
        x, y = torch.ones(3, device="cuda"), torch.ones(3)
        for line in lines:
            gpu.waits.clear()
            try:
                result = eval(line, {"x": x, "y": y, "torch": torch})
                seen[line] = result if isinstance(result, str) else sum(gpu.waits.values())
            except RuntimeError as error:
                seen[line] = str(error)
    Path(target).write_text(json.dumps(seen))


def next_run() -> list[str]:
    """What to run, in the process that is to do it. The one that reads goes on reading, and ends here."""
    gc.freeze()  # what is imported is not looked through again and again
    for line in sys.stdin:
        folder, *words = json.loads(line)
        child = os.fork()
        if not child:
            os.chdir(folder)
            said = os.open("said.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(said, 1), os.dup2(said, 2)
            return words
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    sys.exit()


if __name__ == "__main__":
    pretended_gpu.pretend()
    guidance.pipeline.CudaGraphs = Fake
    driver.torch_cuda = driver.driver_cuda = lambda: 13000
    first_use.compare_apart, comparisons.POINTS["cuda"] = compare_here, 257
    what, *words = next_run()
    if what in ("steps", "faults"):
        {"steps": steps, "faults": faults}[what](*words)
    else:
        with pretended_gpu.Gpu():
            sys.exit(main.main(words))
