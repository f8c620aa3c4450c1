"""What each step does: `Schedule.plan(step)`, a pure function of the options, the seed and the step.

Two measures of time: `fraction` is step / iters, `progress` the same between exp_start_iter and exp_end_iter (for
runs that continue a longer schedule). Both are in [0, 1] and count steps from 0: a phase that lasts until a ratio r
has exactly r * iters steps, and none where r is 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch.nn.functional import normalize

from guidance.transfer import sent
from nerf.cameras import Range, ViewRanges
from nerf.losses import LOSSES
from nerf.seeding import step_generator
from nerf.types import Cameras, Shading

T_SCHEDULES = ("uniform", "anneal", "dreamtime")
BACKGROUNDS = ("network", "color", "grey", "grey_or_color")


@dataclass(frozen=True)
class Plan:
    """One step. Plain numbers only, so that two plans can be compared."""

    step: int
    progress: float  # in [0, 1]
    phase: str  # latent (the rendering is read as latents) | albedo | shaded
    views: ViewRanges
    height: int  # pixels
    width: int  # pixels
    max_level: float  # share of the grid's levels in use, in (0, 1]
    shading: str  # mode of nerf.types.Shading
    ambient: float  # in [0, 1]
    light_noise: tuple[tuple[float, float, float], ...]  # moves the light of each view off its camera, scene units [B]
    background: tuple[tuple[float, float, float], ...] | None  # colour of each view [B]; None: the network, or white
    t_range: Range  # of the diffusion timesteps, in [0, 1]
    dreamtime: float | None  # share of the run that is over, where the timesteps follow DreamTime
    guidance_scale: float  # of classifier-free guidance
    lr_factor: float  # by what the learning rates are multiplied
    weights: Mapping[str, float]  # of every loss and guidance, ramps applied

    @property
    def as_latent(self) -> bool:
        """Whether the rendering is itself in the latent space of the guidance (normals and opacity, 4 channels)."""
        return self.phase == "latent"

    @property
    def need_normals(self) -> bool:
        """Whether the renderer has to make normals even where the shading needs none (orient alone is not worth it)."""
        return self.weights.get("2d_normal_smooth", 0.0) != 0 or self.perturb_normals

    @property
    def perturb_normals(self) -> bool:
        """Whether the renderer has to make normals beside the samples too."""
        return self.weights.get("3d_normal_smooth", 0.0) != 0

    def shading_for(self, cameras: Cameras) -> Shading:
        """The shading with a light near each camera (DreamFusion, arXiv:2209.14988, section 3.2)."""
        position = cameras.c2w[:, :3, 3]
        light = normalize(position + _sent(self.light_noise, position), dim=-1)
        return Shading(self.shading, self.ambient, light)

    def background_for(self, cameras: Cameras) -> torch.Tensor | None:
        """The background as the renderer takes it. [B, 3] or None"""
        return None if self.background is None else _sent(self.background, cameras.c2w)


@dataclass(frozen=True)
class Schedule:
    """The options of a run that depend on the step, under the names of the command line.

    Raises:
        ValueError: An option is out of range, named as on the command line.
    """

    iters: int = 10000
    seed: int = 0
    batch_size: int = 1
    h: int = 64  # pixels, --h and --w
    w: int = 64
    end_h: int | None = None  # the height at the end of the run, the width in proportion; None: h
    end_iter_ratio: float = 0.4  # share of the run that has it
    views: ViewRanges = field(default_factory=ViewRanges)
    exp_start_iter: int | None = None  # None: 0
    exp_end_iter: int | None = None  # None: iters
    progressive_view: bool = False  # the ranges grow from the default view
    progressive_view_init_ratio: float = 0.2
    default_radius: float = 3.2  # the default view, scene units and degrees
    default_polar: float = 90.0
    default_azimuth: float = 0.0
    default_fovy: float = 20.0
    progressive_level: bool = False  # from a quarter of the grid's levels to all
    latent_iter_ratio: float = 0.2
    albedo_iter_ratio: float = 0.0
    min_ambient_ratio: float = 0.1
    textureless_ratio: float = 0.2
    background: str = "network"  # network (every second step, else a colour) | color | grey | grey_or_color
    t_range: Range = (0.02, 0.98)
    t_schedule: str = "uniform"  # uniform | anneal | dreamtime
    t_anneal: float = 0.2  # where the upper end of t_range arrives at the end of the run, with anneal
    guidance_scale: float = 100.0
    guidance_anneal: float = 0.0  # where the scale arrives at the end of the run; 0: it stays
    lr_decay: float = 1.0  # lr_factor at the end of the run, where it arrives in even factors a step
    weights: Mapping[str, float] = field(default_factory=dict)  # --lambda_* without the prefix; "guidance" among them

    def __post_init__(self):
        shares = ("latent_iter_ratio", "albedo_iter_ratio", "min_ambient_ratio", "textureless_ratio", "end_iter_ratio")
        for name in shares:
            _check(0 <= getattr(self, name) <= 1, name, "a share in [0, 1]", getattr(self, name))
        _check(
            0 <= self.progressive_view_init_ratio <= 1,
            "progressive_view_init_ratio",
            "a share in [0, 1]",
            self.progressive_view_init_ratio,
        )
        _check(0 < self.lr_decay <= 1, "lr_decay", "a share more than 0 and at most 1", self.lr_decay)
        for name in ("iters", "batch_size", "h", "w", "end_h"):
            value = getattr(self, name)
            _check(value is None or value >= 1, name, "a number >= 1", value)
        low, high = self.t_range
        _check(0 <= low <= high <= 1, "t_range", "0 <= min <= max <= 1", f"{low} {high}")
        _check(self.t_schedule in T_SCHEDULES, "t_schedule", f"one of {', '.join(T_SCHEDULES)}", self.t_schedule)
        if self.t_schedule == "anneal":
            _check(low <= self.t_anneal <= 1, "t_anneal", f"a value from t_range's min {low} to 1", self.t_anneal)
        start, end = self._experiment
        _check(start < end, "exp_end_iter", f"a step after exp_start_iter {start}", end)
        _check(self.background in BACKGROUNDS, "background", f"one of {', '.join(BACKGROUNDS)}", self.background)

    @property
    def _experiment(self) -> tuple[int, int]:
        end = self.iters if self.exp_end_iter is None else self.exp_end_iter
        return self.exp_start_iter or 0, end

    def plan(self, step: int) -> Plan:
        """What step `step` (from 0) does; the same plan for the same step, always."""
        generator = step_generator(self.seed, step, stream="plan")
        draws = torch.rand(4, generator=generator, dtype=torch.float64).tolist()
        colours = torch.rand(self.batch_size, 3, generator=generator)
        noise = torch.randn(self.batch_size, 3, generator=generator)

        start, end = self._experiment
        fraction = min(step / self.iters, 1.0)
        progress = min(max((step - start) / (end - start), 0.0), 1.0)
        phase = self._phase(progress)
        shading, ambient = self._shading(phase, draws[0], draws[1])
        height, width = self._size(step)
        return Plan(
            step=step,
            progress=progress,
            phase=phase,
            views=self._views(progress),
            height=height,
            width=width,
            max_level=min(1.0, 0.25 + 2 * progress) if self.progressive_level else 1.0,
            shading=shading,
            ambient=ambient,
            light_noise=tuple(map(tuple, noise.tolist())),
            background=self._background(phase, draws[2], draws[3], colours),
            t_range=(self.t_range[0], self._highest_timestep(fraction)),
            dreamtime=fraction if self.t_schedule == "dreamtime" else None,
            guidance_scale=_annealed(self.guidance_scale, self.guidance_anneal, fraction),
            lr_factor=self.lr_decay**fraction,
            weights={name: value * _ramp(name, fraction) for name, value in self.weights.items()},
        )

    def _highest_timestep(self, fraction: float) -> float:
        highest = self.t_range[1]
        return highest + (self.t_anneal - highest) * fraction if self.t_schedule == "anneal" else highest

    def _phase(self, progress: float) -> str:
        if progress < self.latent_iter_ratio:
            return "latent"
        return "albedo" if progress < self.albedo_iter_ratio else "shaded"

    def _shading(self, phase: str, ambient: float, kind: float) -> tuple[str, float]:
        if phase != "shaded":
            return ("normal" if phase == "latent" else "albedo"), 1.0
        ambient = self.min_ambient_ratio + (1 - self.min_ambient_ratio) * ambient
        return ("textureless" if kind < self.textureless_ratio else "lambertian"), ambient

    def _background(self, phase: str, network: float, kind: float, colours: torch.Tensor):
        if self.background == "network" and (phase == "latent" or network < 0.5):
            return None
        if self.background == "grey" or (self.background == "grey_or_color" and kind < 0.5):
            colours = colours[:, :1].expand(-1, 3)
        return tuple(map(tuple, colours.tolist()))

    def _size(self, step: int) -> tuple[int, int]:
        at_the_end = self.end_h is not None and step >= round((1 - self.end_iter_ratio) * self.iters)
        height = self.end_h if at_the_end else self.h
        return height, max(1, round(height * self.w / self.h))

    def _views(self, progress: float) -> ViewRanges:
        if not self.progressive_view:
            return self.views
        share = min(1.0, self.progressive_view_init_ratio + 2 * progress)

        def grown(limits: Range, centre: float) -> Range:
            return tuple(centre * (1 - share) + limit * share for limit in limits)

        return replace(
            self.views,
            radius=grown(self.views.radius, self.default_radius),
            polar=grown(self.views.polar, self.default_polar),
            azimuth=grown(self.views.azimuth, self.default_azimuth),
            fovy=grown(self.views.fovy, self.default_fovy),
        )


def _sent(rows: tuple[tuple[float, float, float], ...], like: torch.Tensor) -> torch.Tensor:
    """Numbers of a plan as a tensor, of the type and on the device of another. [B, 3]"""
    return sent(torch.tensor(rows, dtype=like.dtype).reshape(-1, 3), like.device)


def _annealed(value: float, end: float, fraction: float) -> float:
    """`value` on its way to `end`, in a line over the run; 0 is no end: it stays."""
    return value + (end - value) * fraction if end else value


def _ramp(name: str, fraction: float) -> float:
    return LOSSES[name].ramp(fraction) if name in LOSSES else 1.0


def _check(fine: bool, option: str, needs: str, got: object) -> None:
    if not fine:
        raise ValueError(f"--{option} needs {needs}, got {got}")
