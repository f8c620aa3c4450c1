"""The composition root: the only place that turns a Config into objects, and the commands that use them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

import extension
from guidance import weights
from guidance.diffusion import DiffusionGuidance
from guidance.prompts import ViewOptions
from guidance.stable_diffusion import StableDiffusion
from nerf import checkpoint, evaluate
from nerf.cameras import ViewRanges
from nerf.config import Config
from nerf.export import MeshOptions, save_mesh
from nerf.export.files import write_bytes
from nerf.extract import occupied_cells
from nerf.fields import BackgroundNetwork, Field, HashGridField, VanillaField
from nerf.optim import EMA, LR_SCALE, get_optimizer
from nerf.renderers import RaymarchRenderer, StratifiedRenderer
from nerf.renderers.base import Renderer
from nerf.runlog import Phases, write_run
from nerf.schedule import Schedule
from nerf.seeding import step_generator
from nerf.trainer import Trainer

WHITE = (1.0, 1.0, 1.0)


def build_device(config: Config) -> torch.device:
    """The device of --device; auto is a GPU where there is one."""
    name = config.run.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"--device {name}, but torch {torch.__version__} sees no GPU: use --device cpu or auto")
    return torch.device(name)


def build_precision(config: Config, device: torch.device) -> str:
    """Of the field's network: --fp16 asks for half precision, in the kind this device multiplies fast."""
    if not config.training.fp16:
        return "fp32"
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device)[0] >= 8 else "fp16"
    return "bf16" if torch.cpu._is_avx512_bf16_supported() else "fp32"


def build_field(config: Config, device: torch.device) -> Field:
    model = config.model
    common = dict(
        bound=config.marching.bound,
        hidden_dim=model.hidden_dim,
        density_activation=model.density_activation,
        blob_density=model.blob_density,
        blob_radius=model.blob_radius,
        normal_mode=model.normal_mode,
        generator=step_generator(config.run.seed, 0, stream="field"),
    )
    if model.backbone == "vanilla":
        return VanillaField(**common)
    return HashGridField(
        **common,
        num_layers=model.num_layers,
        num_levels=model.num_levels,
        level_dim=model.level_dim,
        log2_hashmap_size=model.log2_hashmap_size,
        base_resolution=model.base_resolution,
        desired_resolution=model.desired_resolution,
        precision=build_precision(config, device),
    )


def build_renderer(config: Config, device: torch.device) -> Renderer:
    marching, field = config.marching, build_field(config, device)
    background = None
    if config.model.bg_radius > 0:
        background = BackgroundNetwork(generator=step_generator(config.run.seed, 0, stream="background"))
    packed = marching.cuda_ray if marching.cuda_ray is not None else extension.load("raymarching")
    if packed:
        renderer = RaymarchRenderer(
            field,
            background,
            max_steps=marching.max_steps,
            dt_gamma=marching.dt_gamma,
            min_near=marching.min_near,
            density_thresh=config.model.density_thresh,
            update_interval=marching.update_extra_interval,
            resolution=marching.occupancy_resolution,
        )
    else:
        renderer = StratifiedRenderer(
            field,
            background,
            num_steps=marching.num_steps,
            upsample_steps=marching.upsample_steps,
            min_near=marching.min_near,
            max_ray_batch=marching.max_ray_batch,
        )
    return renderer.to(device)


def build_guidance(config: Config, device: torch.device) -> dict[str, DiffusionGuidance]:
    """Name -> prior, prepared for the prompt."""
    options, priors = config.guidance, {}
    views = ViewOptions(
        angle_front=config.camera.angle_front,
        angle_overhead=config.camera.angle_overhead,
        perpneg=options.perpneg,
        negative_w=options.negative_w,
        front_decay_factor=options.front_decay_factor,
        side_decay_factor=options.side_decay_factor,
    )
    for name in options.guidance:
        text, sources = config.run.text, weights.resolve(options.sd_version, options.hf_key)
        if name == "toybox":
            from toybox.words import canonical

            text, sources = canonical(text), [options.toybox_dir]
        prior = StableDiffusion(
            sources,
            device=device,
            guidance_scale=options.guidance_scale,
            views=views,
            pictures=options.save_guidance,
            grad_clip=config.training.grad_clip,
        )
        prior.prepare(text, config.run.negative)
        priors[name] = prior
    return priors


def build_schedule(config: Config) -> Schedule:
    training, camera, losses = config.training, config.camera, vars(config.losses)
    background = training.background
    if background == "network" and config.model.bg_radius <= 0:
        background = "color"
    return Schedule(
        iters=training.iters,
        seed=config.run.seed,
        batch_size=training.batch_size,
        h=training.h,
        w=training.w,
        views=ViewRanges(
            radius=camera.radius_range,
            polar=camera.theta_range,
            azimuth=camera.phi_range,
            fovy=camera.fovy_range,
            uniform_sphere_rate=camera.uniform_sphere_rate,
            jitter_pose=camera.jitter_pose,
            jitter_center=camera.jitter_center,
            jitter_target=camera.jitter_target,
            jitter_up=camera.jitter_up,
        ),
        exp_start_iter=training.exp_start_iter,
        exp_end_iter=training.exp_end_iter,
        progressive_view=camera.progressive_view,
        progressive_view_init_ratio=camera.progressive_view_init_ratio,
        progressive_level=config.model.progressive_level,
        latent_iter_ratio=training.latent_iter_ratio,
        albedo_iter_ratio=training.albedo_iter_ratio,
        min_ambient_ratio=training.min_ambient_ratio,
        textureless_ratio=training.textureless_ratio,
        background=background,
        t_range=config.guidance.t_range,
        t_anneal=config.guidance.t_anneal,
        weights={name.removeprefix("lambda_"): value for name, value in losses.items()}
        | {"guidance": config.guidance.lambda_guidance},
    )


def run_training(config: Config) -> None:
    """Train, or go on training, then render the turntable and, with --save_mesh, write the mesh."""
    phases, workspace = Phases(), Path(config.run.workspace)
    extension.set_mode(config.run.ops)
    with phases("compile"):
        prepare_operators(config)
    device = build_device(config)
    with phases("load"):
        trainer = build_trainer(config, device)
    write_bytes(workspace / "config.json", (json.dumps(config.flat(), indent=2) + "\n").encode())
    print(_describe(config, trainer), flush=True)
    with phases("train"):
        finished = trainer.train()
    if not finished:
        write_run(workspace, phases, step=trainer.step, device=str(device))
        raise KeyboardInterrupt
    facts = {"step": trainer.step, "device": str(device), "seed": config.run.seed, "text": config.run.text}
    with trainer.ema.swap():
        with phases("render"):
            show(config, trainer.renderer, "turntable", evaluate.turntable, frames=config.results.frames)
        if config.results.save_mesh:
            with phases("mesh"):
                facts["mesh"] = write_mesh(config, trainer.renderer)
    report = write_run(workspace, phases, **facts)
    times = ", ".join(f"{name} {value:.0f} s" for name, value in report["seconds"].items())
    print(f"done: {workspace / 'results'}{' and ' + str(workspace / 'mesh') if 'mesh' in facts else ''} ({times})")


def prepare_operators(config: Config) -> None:
    """Build what the run needs side by side; where that fails, `extension.load` says so once and falls back."""
    if config.run.ops == "native":
        try:
            extension.build_all()
        except extension.ExtensionBuildError:
            pass


def build_trainer(config: Config, device: torch.device) -> Trainer:
    """Everything a run needs, at the step its checkpoint is at."""
    training, results, workspace = config.training, config.results, Path(config.run.workspace)
    path = checkpoint.find(workspace, config.run.ckpt)
    state = checkpoint.load(path, config.fingerprint(), device) if path else None
    renderer = build_renderer(config, device)
    lr = training.lr * LR_SCALE[training.optim]
    groups = renderer.field.parameter_groups(lr)
    if renderer.background_net is not None:
        groups += renderer.background_net.parameter_groups(lr)
    trainer = Trainer(
        renderer=renderer,
        guidance=build_guidance(config, device),
        schedule=build_schedule(config),
        optimizer=get_optimizer(training.optim, groups),
        ema=EMA(renderer, training.ema_decay),
        workspace=workspace,
        meta={**config.fingerprint(), "config": config.flat()},
        backbone=config.model.backbone,
        grad_clip_rgb=training.grad_clip_rgb,
        save_interval=results.eval_interval * training.dataset_size_train,
        picture_interval=config.guidance.save_guidance_interval if config.guidance.save_guidance else 0,
        validate=lambda step: validate(config, renderer, step),
        device=device,
    )
    if state is not None and config.run.ckpt == "latest_model":
        renderer.load_state_dict(state["model"])
    elif state is not None:
        trainer.load_state_dict(state)
    return trainer


def validate(config: Config, renderer: Renderer, step: int) -> None:
    """Pictures while it trains: a sheet of views around the object, and now and then the whole turntable."""
    results, training = config.results, config.training
    folder = Path(config.run.workspace) / "validation"
    size = max(training.h, min(results.video_size, 2 * training.h))
    evaluate.contact_sheet(
        renderer, folder / f"step_{step:06d}.png", views=training.dataset_size_valid, size=size, background=_white()
    )
    if step % (results.test_interval * training.dataset_size_train) == 0:
        show(config, renderer, f"turntable_{step:06d}", evaluate.turntable, frames=results.frames)


def load_trained(config: Config) -> Renderer:
    """The renderer of the run in the workspace, with its averaged weights."""
    extension.set_mode(config.run.ops)
    device = build_device(config)
    path = checkpoint.find(config.run.workspace, config.run.ckpt)
    state = checkpoint.load(path, config.fingerprint(), device)
    renderer = build_renderer(config, device)
    renderer.load_state_dict(state["model"])
    parameters = dict(renderer.named_parameters())
    with torch.no_grad():
        for name, average in state["ema"]["average"].items():
            parameters[name].copy_(average)
    return renderer.eval()


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
        background=_white(),
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


def _white() -> torch.Tensor:
    return torch.tensor(WHITE)


def _describe(config: Config, trainer: Trainer) -> str:
    """One line: what runs on what."""
    sources = ", ".join(f"{name} ({prior.source})" for name, prior in trainer.guidance.items())
    native = all(extension.load(name) for name in extension.NAMES)
    begin = f"from step {trainer.step} of" if trainer.step else "for"
    return (
        f"training {config.run.text!r} {begin} {config.training.iters} steps on {trainer.device}, guidance {sources}, "
        f"{type(trainer.renderer).__name__}, operators {'compiled' if native else 'in plain torch'}"
    )
