"""A whole run in half a second: a diffusion model of a few thousand random weights, 16 x 16 pictures, six steps.

Nothing is learnt here, but every part of a real run takes part.
"""

from __future__ import annotations

import json
import os
import signal

import torch

from nerf import build, cli
from nerf.config import Config

CPU = torch.device("cpu")
STEPS = 6
SMALL = dict(
    text="a frog",
    workspace="out",
    guidance=("toybox",),
    guidance_scale=7.5,
    iters=STEPS,
    w=16,
    h=16,
    latent_iter_ratio=0.34,  # two latent steps, two with plain colours, two shaded
    albedo_iter_ratio=0.67,
    num_levels=4,
    log2_hashmap_size=8,
    base_resolution=4,
    desired_resolution=32,
    occupancy_resolution=16,
    update_extra_interval=2,
    max_steps=64,
    num_steps=8,
    upsample_steps=8,
    dataset_size_train=STEPS,
    dataset_size_valid=2,
    video_size=16,
    frames=2,
    mcubes_resolution=16,
    texture_size=32,
    decimate_target=200,
    device="cpu",
)


def as_words(options, *left_out):
    """Options but for some, as they are typed behind --text and --guidance."""
    left_out = ("text", "guidance", *left_out)
    return cli.as_typed({name: value for name, value in options.items() if name not in left_out}).split()


def maker(prior, tmp_path, monkeypatch):
    """make(folder, option=value, ...): a trainer whose workspace is folder/out, the same command in every folder."""

    def make(folder="run", **options):
        path = tmp_path / folder
        path.mkdir(exist_ok=True)
        monkeypatch.chdir(path)
        config = Config().updated({**SMALL, "toybox_dir": str(prior), **options})
        return build.build_trainer(config, build.build_device(config.run.device))

    return make


def final(made, step=STEPS):
    return (made.workspace.absolute() / "checkpoints" / f"step_{step:06d}.pt").read_bytes()


def watch_steps(made, after):
    """Call `after(step)` when a step is done, inside the loop."""
    step = made.train_step

    def watched():
        result = step()
        after(made.step)
        return result

    made.train_step = watched


def interrupt_at(made, step):
    """Ctrl-C while the step before `step` runs."""
    watch_steps(made, lambda now: os.kill(os.getpid(), signal.SIGINT) if now == step else None)


def outputs(made):
    """[(plan, RenderOutput, terms)] of a whole run."""
    seen, step = [], made.train_step

    def watched():
        plan = made.schedule.plan(made.step)
        out, terms = step()
        seen.append((plan, out, terms))
        return out, terms

    made.train_step = watched
    assert made.train()
    return seen


def logged(made):
    return [json.loads(line) for line in (made.workspace.absolute() / "log.jsonl").read_text().splitlines()]


def weights(made):
    return {name: p.detach().clone() for name, p in made.renderer.named_parameters()}
