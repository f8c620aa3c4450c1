"""The commands of main.py: what is done with the objects of nerf/build.py, and what is written where."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

import extension
from nerf import evaluate
from nerf.build import build_device, build_trainer, load_trained
from nerf.config import Config
from nerf.export import MeshOptions, save_mesh
from nerf.export.files import write_json
from nerf.extract import occupied_cells
from nerf.first_use import load_operators
from nerf.renderers import RaymarchRenderer
from nerf.renderers.base import Renderer
from nerf.runlog import Phases, write_run
from nerf.trainer import Trainer
from nerf.workspace import set_aside

WHITE = torch.ones(3)


def run_training(config: Config) -> None:
    """Train, or go on training, then render the turntable and, with --save_mesh, write the mesh."""
    phases, workspace = Phases(), Path(config.run.workspace)
    extension.set_mode(config.run.ops)
    device = build_device(config.run.device)
    with phases("compile"):
        native = load_operators(device)
    with phases("load"):
        trainer = build_trainer(config, device)
        trainer.validate = lambda step: validate(config, trainer.renderer, step)
    if config.run.ckpt == "scratch" and (moved := set_aside(workspace)):  # now nothing stops the new run
        print(f"--ckpt scratch: the old run is kept in {moved}", file=sys.stderr, flush=True)
    write_json(workspace / "config.json", config.flat())
    print(_describe(config, trainer, native), flush=True)
    facts = {"from_step": trainer.step, "device": str(device)}
    with phases("train"):
        finished = trainer.train()
    facts["step"] = trainer.step
    if not finished:
        write_run(workspace, phases, **facts)
        raise KeyboardInterrupt
    whole = {"seed": config.run.seed, "text": config.run.text}  # which a run that was cut short has not in its report
    try:
        with trainer.ema.swap():
            with phases("render"):
                show(config, trainer.renderer, "turntable", evaluate.turntable, frames=config.results.frames)
            if config.results.save_mesh:
                with phases("mesh"):
                    facts["mesh"] = write_mesh(config, trainer.renderer)
    except BaseException as error:
        empty = isinstance(error, ValueError)  # a scene without a mesh, which is a result
        write_run(workspace, phases, **facts, **(whole if empty else {}))
        raise
    report = write_run(workspace, phases, **facts, **whole)
    times = ", ".join(f"{name} {value:.0f} s" for name, value in report["seconds"].items())
    print(f"done: {workspace / 'results'}{' and ' + str(workspace / 'mesh') if 'mesh' in facts else ''} ({times})")


def validate(config: Config, renderer: Renderer, step: int) -> None:
    """Pictures at the end of an epoch: every so often a sheet of views around the object, or the whole turntable."""
    results, training = config.results, config.training
    epoch = step // training.dataset_size_train
    if epoch % results.eval_interval == 0:
        path = Path(config.run.workspace) / "validation" / f"step_{step:06d}.png"
        size = max(training.h, min(results.video_size, 2 * training.h))
        evaluate.contact_sheet(renderer, path, views=training.dataset_size_valid, size=size, background=WHITE)
    if epoch % results.test_interval == 0:
        show(config, renderer, f"turntable_{step:06d}", evaluate.turntable, frames=results.frames)


def run_test(config: Config) -> None:
    """Render the turntable of a trained run."""
    show(config, load_trained(config), "turntable", evaluate.turntable, frames=config.results.frames)


def run_six_views(config: Config) -> None:
    """Render a trained run from six sides."""
    show(config, load_trained(config), "six_views", evaluate.six_views)


def run_save_mesh(config: Config) -> None:
    """Write the mesh of a trained run."""
    write_mesh(config, load_trained(config))


def show(config: Config, renderer: Renderer, name: str, function, **options: Any) -> None:
    """Render with one of evaluate's functions into workspace/results, and say where."""
    size = config.results.video_size
    paths = function(
        renderer,
        Path(config.run.workspace) / "results",
        name=name,
        height=size,
        width=size,
        background=WHITE,
        **options,
    )
    print("wrote", ", ".join(str(path) for path in paths.values()), flush=True)


def write_mesh(config: Config, renderer: Renderer) -> dict[str, Any]:
    """Write workspace/mesh and say what it took."""
    folder, results = Path(config.run.workspace) / "mesh", config.results
    report = save_mesh(
        renderer.field,
        folder,
        options=MeshOptions(
            resolution=results.mcubes_resolution,
            decimate_target=max(results.decimate_target, 0),
            texture_size=results.texture_size,
        ),
        occupied=occupied_cells(renderer.occupancy) if isinstance(renderer, RaymarchRenderer) else None,
    )
    print(f"wrote {folder / 'mesh.obj'} and mesh.glb ({report['faces']} faces, {report['unwrap']})", flush=True)
    return report


def _describe(config: Config, trainer: Trainer, native: bool) -> str:
    """One line: what runs on what."""
    sources = ", ".join(f"{name} ({prior.describe()})" for name, prior in trainer.guidance.items())
    begin = f"from step {trainer.step} of" if trainer.step else "for"
    return (
        f"training {config.run.text!r} {begin} {config.training.iters} steps on {trainer.device}, guidance {sources}, "
        f"{type(trainer.renderer).__name__}, operators {'compiled' if native else 'in plain torch'}"
    )
