"""What scripts/bench.py measures: operators, and the parts of a run that are made of them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import Module

import cases
import extension
import freqencoder
import fusedfield
import gridencoder
import raymarching
import shencoder
from adan import adan_update
from nerf import build
from nerf.cameras import cameras_from_views
from nerf.config import Config
from nerf.extract import extract
from nerf.fields import Field, HashGridField
from nerf.fields.network import NetworkField
from nerf.optim import get_optimizer
from nerf.presets import PRESETS
from nerf.renderers.base import Renderer
from nerf.types import Cameras, Shading, Views


@dataclass(frozen=True)
class Case:
    op: str
    size: str
    call: Callable[[], object]  # returns a tensor or a tuple of them
    inputs: tuple[Tensor, ...] = ()  # differentiated in the backward pass; none: forward only
    peer: Callable[[], object] | None = None  # compared with this, compiled too; None: with `call` in plain torch
    flops: float = 0.0  # operations of the forward pass that a matrix product cannot do without; the backward has twice
    rows: float = 0.0  # of a table that the forward pass reads; the backward adds to as many
    bf16: bool = False  # the operations are


def operator_cases(device: torch.device) -> Iterator[Case]:
    """Every operator at the sizes of a training step (64 x 64 pixels, about 0.2 M samples)."""
    yield from grid_cases(device)
    yield from field_cases(device)
    yield from ray_cases(device)
    yield adan_case(device)
    directions = cases.directions(2**16, device=device).requires_grad_()
    points = cases.points(2**16, device=device).requires_grad_()
    for degree in (4, 8):
        call = lambda degree=degree: shencoder.sh_encode(directions, degree)  # noqa: E731
        yield Case("sh_encode", f"2^16 directions, degree {degree}", call, (directions,))
    for degree in (4, 10):
        call = lambda degree=degree: freqencoder.freq_encode(points, degree)  # noqa: E731
        yield Case("freq_encode", f"2^16 points, degree {degree}", call, (points,))


def grid_cases(device: torch.device) -> Iterator[Case]:
    """16 levels of 2 features, tables of 2^19 rows, 16 to 2048 nodes an axis, smoothstep: main.py's default."""
    layout = {"desired_resolution": 2048, "interpolation": "smoothstep"}
    grid = gridencoder.GridEncoder(**layout).to(device)
    grid.embeddings.data = cases.points(*grid.embeddings.shape, device=device)  # random, not the tiny initial values
    for exponent in (16, 18):
        for order, make in (("random", cases.points), ("along rays", cases.points_on_rays)):
            x = make(2**exponent, device=device) * 2 - 1
            size, rows = f"2^{exponent} points, {order}", 16 * 8 * len(x)
            yield Case("grid_encode", size, lambda x=x: grid(x), (grid.embeddings,), rows=rows)
    x = (cases.points_on_rays(2**16, device=device) * 2 - 1).requires_grad_()
    call = lambda: grid(x)  # noqa: E731
    yield Case("grid_encode, input gradient", "2^16 points, along rays", call, (x,))
    levels, sums = (grid.offsets, grid.resolutions, grid.gridtype), torch.zeros_like(grid.embeddings)
    for exponent in (16, 18):
        x = cases.points(2**exponent, device=device)
        add = lambda x=x: gridencoder.grid_total_variation_(sums, x, grid.embeddings.detach(), 1e-6, *levels)  # noqa: E731
        rows = 16 * 4 * len(x)
        yield Case("grid_total_variation_", f"2^{exponent} points, random", lambda add=add: (add(), sums)[1], rows=rows)


def field_cases(device: torch.device) -> Iterator[Case]:
    """The default field, and the levels of the Toybox preset's: 3 layers of 64 channels, smoothstep."""
    sizes = {
        "L8 T2^15": {"num_levels": 8, "log2_hashmap_size": 15, "base_resolution": 8, "desired_resolution": 96},
        "L16 T2^19": {},
    }
    if device.type == "cpu":
        yield from layer_cases()
    for name, layout in sizes.items():
        field = HashGridField(**layout, blob_density=4.0, blob_radius=2.0).to(device)  # rays end within it
        table = field.encoder.embeddings
        table.data = 2 * cases.points(*table.shape, device=device) - 1
        for order, make in (("random", cases.points), ("along rays", cases.points_on_rays)):
            x = make(2**18, device=device) * 2 - 1
            query = lambda x=x, field=field: field.query(x)  # noqa: E731
            parts = lambda x=x, field=field: NetworkField.evaluate(field, x, 4, "exp", False)  # noqa: E731
            size, parameters = f"2^18 points, {order}, {name}", tuple(field.parameters())
            flops = 2.0 * len(x) * sum(layer.weight.numel() for layer in field.mlp.layers)
            yield Case("field_query", size, query, parameters, flops=flops)
            yield Case("field_query, parts", size, query, parameters, parts)
            if fusedfield.serves(x, table, [(layer.weight, layer.bias) for layer in field.mlp.layers], mixed=True):
                mixed = lambda x=x, field=field: field.evaluate(x, 4, "exp", True)  # noqa: E731
                yield Case("field_query, bf16", size, mixed, parameters, query, flops, bf16=True)
        if device.type != "cpu":  # no other device has the operator
            continue
        place = cases.points_on_rays(2**18) * 2 - 1, *cases.intervals_on_rays(2**18), 9.3
        rays = lambda place=place, field=field: field.query_rays(*place)[:2]  # noqa: E731
        rounds = lambda place=place, field=field: Field.query_rays(field, *place)[:2]  # noqa: E731
        size = f"2^18 points, {round(100 * len(rays()[0]) / 2**18)} % reached, {name}"
        yield Case("field_query_rays", size, rays, tuple(field.parameters()))
        yield Case("field_query_rays, rounds", size, rays, tuple(field.parameters()), rounds)


def layer_cases() -> Iterator[Case]:
    """The default field's network alone, on samples that do not leave the first caches; beside it torch's layers."""
    extension.load("fusedfield")
    mlp = HashGridField().mlp
    widths = [mlp.layers[0].in_features, *(layer.out_features for layer in mlp.layers)]
    parameters = torch.cat([p.detach().flatten() for layer in mlp.layers for p in (layer.weight, layer.bias)])
    tile = cases.points(widths[0] // 2 * 48, 2).view(-1, 48, 2)
    rounds = 2**18 // (48 * torch.get_num_threads())
    count = 48 * torch.get_num_threads() * rounds
    x, flops = cases.points(count, widths[0]), 2.0 * count * sum(layer.weight.numel() for layer in mlp.layers)
    for mixed in (False, True)[: 1 + torch.ops.fusedfield.has_bf16()]:
        call = lambda mixed=mixed: torch.ops.fusedfield.layers(tile, parameters, widths, mixed, rounds)[0]  # noqa: E731
        theirs = lambda mixed=mixed: with_autocast(mlp, x, mixed)  # noqa: E731
        name = f"layers{', bf16' if mixed else ''}"
        yield Case(name, f"{'-'.join(map(str, widths))}, {count} samples", call, peer=theirs, flops=flops, bf16=mixed)


def with_autocast(module: Module, x: Tensor, mixed: bool) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        return module(x)


def adan_case(device: torch.device) -> Case:
    """The 12.2 M numbers of the default grid."""
    size = 12_196_240
    state = [cases.points(size, 1, device=device, seed=i)[:, 0] for i in range(6)]
    options = dict(step=10, clip=torch.tensor(0.5, device=device), lr=5e-3, weight_decay=2e-5)
    return Case("adan_update", f"{size / 1e6:.1f} M numbers", lambda: adan_update(*state, **options))


def ray_cases(device: torch.device) -> Iterator[Case]:
    """Rays of a 64 x 64 picture through a ball on a grid of 128^3 cells."""
    origins, directions = cases.rays(4096, device=device)
    box = torch.tensor([-1.0, -1, -1, 1, 1, 1], device=device)
    density = cases.ball_density(128, device=device)
    bits = raymarching.packbits(density, 10.0)
    near, far = raymarching.near_far_from_aabb(origins, directions, box, 0.01)
    noises = cases.points(4096, 1, device=device)[:, 0]
    march = lambda: raymarching.march_rays_train(origins, directions, 1.0, bits, 1, 128, near, far, noises=noises)  # noqa: E731
    _, _, ts, info = march()
    samples = ts.shape[0]
    sigmas = (10 * cases.points(samples, 1, device=device)[:, 0]).requires_grad_()
    rgbs = cases.points(samples, 3, device=device, seed=1).requires_grad_()
    blend = lambda: raymarching.composite_rays_train(sigmas, rgbs, ts, info)  # noqa: E731
    cells = (cases.points(2**18, device=device) * 128).int()
    rays, packed = "4096 rays", f"4096 rays, {samples} samples"
    index = raymarching.morton3D(cells)
    yield Case("near_far_from_aabb", rays, lambda: raymarching.near_far_from_aabb(origins, directions, box, 0.01))
    yield Case("sph_from_ray", rays, lambda: raymarching.sph_from_ray(origins, directions, 5.0))
    yield Case("march_rays_train", packed, march)
    yield Case("march_rays", f"{rays}, 8 steps", inference_march(origins, directions, bits, near, far, noises))
    yield Case("composite_rays_train", packed, blend, (sigmas, rgbs))
    yield Case("flatten_rays", packed, lambda: raymarching.flatten_rays(info, samples))
    yield Case("morton3D", "2^18 cells", lambda: raymarching.morton3D(cells))
    yield Case("morton3D_invert", "2^18 cells", lambda: raymarching.morton3D_invert(index))
    yield Case("packbits", "128^3 cells", lambda: raymarching.packbits(density, 10.0))


def inference_march(origins: Tensor, directions: Tensor, bits: Tensor, near: Tensor, far: Tensor, noises: Tensor):
    alive = torch.arange(4096, device=origins.device, dtype=torch.int32)
    given = (4096, 8, alive, near, origins, directions, 1.0, bits, 1, 128, near, far)
    return lambda: raymarching.march_rays(*given, noises=noises)


def run_cases(part: str, device: torch.device) -> Iterator[Case]:
    """A part of a run, the diffusion model left out: Toybox's preset, the defaults, and -O where that is bf16.

    Args:
        part: step (render with gradients, backward, optimiser), render (a turntable's frame), export (the surface).
    """
    for name, preset in (("toybox", PRESETS["toybox"]), ("defaults", {}), ("-O", PRESETS["O"])):
        config = Config().updated(preset)
        if config.training.fp16 and build.build_precision(config, device) == "fp32":
            continue  # the defaults again
        renderer = build.build_renderer(config, device)
        renderer.update(0)
        size, call = PARTS[part](config, renderer, device)
        yield Case(part, f"{size}, {name}", call)


def step(config: Config, renderer: Renderer, device: torch.device) -> tuple[str, Callable[[], Tensor]]:
    training = config.training
    optimizer = get_optimizer(training.optim, renderer.field.parameter_groups(0.0))  # all its work; the scene stays
    cameras = around(training.batch_size, training.h, device)
    cotangent = cases.cotangent(torch.empty(training.batch_size, training.h, training.h, 3)).to(device)
    grey = torch.full((training.batch_size, 3), 0.5, device=device)

    @torch.enable_grad()
    def call() -> Tensor:
        out = renderer.render(cameras, Shading(), background=grey)
        optimizer.zero_grad(set_to_none=True)
        (out.rgb * cotangent).sum().backward()
        renderer.had_room()  # of a scene that stands still it has
        optimizer.step()
        return out.rgb.detach()

    samples = len(renderer.render(cameras, Shading(), background=grey).samples["ts"])
    return f"{training.batch_size} x {training.h}^2 pixels, {samples} samples", call


def render(config: Config, renderer: Renderer, device: torch.device) -> tuple[str, Callable[[], Tensor]]:
    side = PRESETS["toybox"]["video_size"]  # of one of 512, the default, plain torch takes minutes
    cameras = around(1, side, device)
    call = lambda: renderer.render(cameras, Shading(), background=torch.ones(3, device=device), need_normals=True).rgb  # noqa: E731
    return f"{side}^2 pixels and normals", call


def export(config: Config, renderer: Renderer, device: torch.device) -> tuple[str, Callable[[], Tensor]]:
    density, results = renderer.field.density, config.results
    grid = {"resolution": results.mcubes_resolution, "bound": config.marching.bound}
    call = lambda: extract(density, **grid, device=device, progress=False).vertices  # noqa: E731
    return f"{results.mcubes_resolution}^3 cells", call


PARTS = {"step": step, "render": render, "export": export}


def around(count: int, side: int, device: torch.device) -> Cameras:
    """Cameras on the horizon, evenly spread, square pictures."""
    azimuth = torch.arange(count, device=device) * (360.0 / count) + 20
    views = Views(azimuth, torch.zeros_like(azimuth), torch.full_like(azimuth, 3.2))
    return cameras_from_views(views, 20.0, side, side)


GROUPS: dict[str, Callable[[torch.device], Iterator[Case]]] = {
    "ops": operator_cases,
    "field": field_cases,
    "march": ray_cases,
    **{part: functools.partial(run_cases, part) for part in PARTS},
}
