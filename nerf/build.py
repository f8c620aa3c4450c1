"""The composition root: turns a Config into objects."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import torch

import extension
from common.allocator import keep_freed_memory
from guidance.deepfloyd import DeepFloyd
from guidance.diffusion import DiffusionGuidance
from guidance.prompts import ViewOptions
from guidance.stable_diffusion import StableDiffusion
from nerf import checkpoint
from nerf.cameras import ViewRanges
from nerf.config import Config
from nerf.fields import BackgroundNetwork, Field, HashGridField, TcnnField, VanillaField
from nerf.first_use import load_operators
from nerf.optim import EMA, LR_SCALE, get_optimizer
from nerf.renderers import RaymarchRenderer, StratifiedRenderer
from nerf.renderers.base import Renderer
from nerf.schedule import Schedule
from nerf.seeding import step_generator
from nerf.select_guidance import find_weights
from nerf.trainer import Trainer

LOADED = 0.6  # GB: CUDA itself and the field, which are on a device before its guidance
COMING = 1.4  # GB: the optimiser and the samples of a step, which come after it
SMALL_VRAM = 4.0  # GB of --vram_O


def build_device(name: str) -> torch.device:
    """The device of --device or --guidance_device; auto is a GPU where there is one. A CPU keeps freed memory."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device, gpus = torch.device(name), torch.cuda.device_count()
    if device.type == "cpu":
        keep_freed_memory()
        return device
    number = device.index or 0
    if number >= gpus:
        seen = f"the last GPU it sees is cuda:{gpus - 1}" if gpus else "sees no GPU: use cpu"
        raise ValueError(f"there is no {name}: torch {torch.__version__} {seen}")
    return torch.device("cuda", number)


def build_precision(config: Config, device: torch.device) -> str:
    """Of the field's network: --fp16 asks for bf16, taken where the device multiplies it fast, else fp32 stays.

    Never fp16, which older GPUs have instead of bf16: without scaling the loss its gradients vanish.
    """
    if device.type == "cuda":
        fast = torch.cuda.get_device_capability(device)[0] >= 8
    else:
        fast = device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
    return "bf16" if config.training.fp16 and fast else "fp32"


def build_vram(config: Config, device: torch.device) -> float:
    """GB that all guidance may take: what is left of --vram, or of what is free, beside the field and its rays.

    Args:
        device: Of the guidance. Where the field has another, all of it is the guidance's.
    """
    shared = build_device(config.run.device) == device
    asked = config.training.vram or (SMALL_VRAM if config.training.vram_O else None)
    if asked is not None:
        return asked - (LOADED + COMING) * shared
    # Measured here, what is free lacks LOADED already.
    return torch.cuda.mem_get_info(device)[0] / 1e9 - COMING * shared if device.type == "cuda" else math.inf


def build_field(config: Config, device: torch.device) -> Field:
    model = config.model
    common = dict(
        bound=config.marching.bound,
        hidden_dim=model.hidden_dim,
        num_layers=model.num_layers,
        density_activation=model.density_activation,
        blob_density=model.blob_density,
        blob_radius=model.blob_radius,
        normal_mode=model.normal_mode,
        normal_step=model.normal_step,
        precision=build_precision(config, device),
        generator=step_generator(config.run.seed, 0, stream="field"),
    )
    if model.backbone == "vanilla":
        return VanillaField(**common)
    return (TcnnField if model.backbone == "grid_tcnn" else HashGridField)(
        **common,
        num_levels=model.num_levels,
        level_dim=model.level_dim,
        log2_hashmap_size=model.log2_hashmap_size,
        base_resolution=model.base_resolution,
        desired_resolution=model.desired_resolution,
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


def build_guidance(config: Config) -> dict[str, DiffusionGuidance]:
    """Name -> prior, prepared for the prompt. In the order typed, each plans with the memory the ones before leave."""
    options, priors, device = config.guidance, {}, build_device(config.guided_on)
    left = build_vram(config, device)  # before any of them has taken its share
    views = ViewOptions(
        words=config.camera.view_words,
        angle_front=config.camera.angle_front,
        angle_overhead=config.camera.angle_overhead,
        perpneg=options.perpneg,
        negative_w=options.negative_w,
        front_decay_factor=options.front_decay_factor,
        side_decay_factor=options.side_decay_factor,
    )
    for name in options.guidance:
        text, negative = config.run.text, config.run.negative
        if name == "toybox":
            from toybox import captions
            from toybox.lexicon import is_sided, known_to
            from toybox.words import OBJECTS

            known = known_to(options.toybox_dir)
            caption = captions.parse(text, known)
            text, negative, sources = str(caption), captions.negative(negative, known), options.toybox_dir
            views = replace(views, sided=is_sided(known), mirrored=not OBJECTS[caption.name].one_sided)
        else:
            sources = find_weights(config, name, half=device.type == "cuda")
        prior = (DeepFloyd if name == "IF" else StableDiffusion)(
            sources,
            device=device,
            views=views,
            pictures=options.save_guidance,
            vram=max(left, 0.0),
            batch_size=config.training.batch_size,
            prediction_type=options.prediction_type,
            grad_clip=config.training.grad_clip,
            rule=options.distill,
            rescale=options.cfg_rescale,
            space=options.distill_space,
        )
        if options.eager:
            prior.unet_pass.stop()
        prior.prepare(text, negative)
        priors[name] = prior
        left -= prior.gigabytes
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
        end_h=training.end_h,
        end_iter_ratio=training.end_iter_ratio,
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
        t_schedule=config.guidance.t_schedule,
        t_anneal=config.guidance.t_anneal,
        guidance_scale=config.guidance.guidance_scale,
        guidance_anneal=config.guidance.guidance_anneal,
        lr_decay=training.lr_decay or (0.1 if config.model.backbone == "vanilla" else 1.0),
        weights={name.removeprefix("lambda_"): value for name, value in losses.items()}
        | {"guidance": config.guidance.lambda_guidance},
    )


def build_trainer(config: Config, device: torch.device) -> Trainer:
    """Everything a run needs, at the step its checkpoint is at."""
    training, workspace = config.training, Path(config.run.workspace)
    path = checkpoint.find(workspace, config.run.ckpt)
    state = checkpoint.load(path, config.fingerprint()) if path else None
    renderer = build_renderer(config, device)
    lr = training.lr * LR_SCALE[training.optim]
    groups = renderer.field.parameter_groups(lr)
    if renderer.background_net is not None:
        groups += renderer.background_net.parameter_groups(lr)
    trainer = Trainer(
        renderer=renderer,
        guidance=build_guidance(config),
        schedule=build_schedule(config),
        optimizer=get_optimizer(training.optim, groups),
        ema=EMA(renderer, training.ema_decay),
        workspace=workspace,
        meta={**config.fingerprint(), "config": config.flat()},
        grad_clip_rgb=training.grad_clip_rgb,
        save_interval=training.dataset_size_train,
        picture_interval=config.guidance.save_guidance_interval if config.guidance.save_guidance else 0,
        device=device,
    )
    if state is not None and config.run.ckpt == "latest_model":
        renderer.load_state_dict(state["model"])
    elif state is not None:
        trainer.load_state_dict(state)
        trainer.good = path
    return trainer


def load_trained(config: Config) -> Renderer:
    """The renderer of the run in the workspace, with its averaged weights."""
    extension.set_mode(config.run.ops)
    device = build_device(config.run.device)
    load_operators(device)
    path = checkpoint.find(config.run.workspace, config.run.ckpt)
    state = checkpoint.load(path, config.fingerprint())
    renderer = build_renderer(config, device)
    renderer.load_state_dict({**state["model"], **state["ema"]["average"]})
    return renderer.eval()
