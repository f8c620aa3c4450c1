"""Every option of the command line, grouped in frozen dataclasses beside its meaning.

One field is one option: the name, the default and, in the field's metadata, the help text and the values it
takes. Nothing here imports torch, so that `--help` answers at once. Presets (nerf/presets.py) replace defaults
before parsing; what the user types always wins. `nerf/cli.py` turns the fields into argparse and back.
"""

from __future__ import annotations

from dataclasses import MISSING, Field, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def opt(
    default: Any,
    help: str,
    *,
    kind: type = None,  # int, float, str or bool; the default's type unless given
    choices: tuple[str, ...] = (),
    count: int | None = None,  # values after the option; None: one, 0: one or more
    low: float | None = None,  # smallest value allowed
    high: float | None = None,  # largest value allowed
    above: float | None = None,  # every value must be larger than this
    below: float | None = None,  # and smaller than this
    ascending: bool = False,  # a (min, max) pair: min <= max
    flag: str = "",  # spelling on the command line, "--name" unless given
    alias: str = "",  # a second spelling
    architecture: bool = False,  # a checkpoint made with another value does not fit
    metavar: str = "",
) -> Any:
    """A dataclass field that is an option."""
    first = default[0] if isinstance(default, tuple) and default else default
    metadata = dict(
        help=help,
        kind=kind or type(first),
        choices=choices,
        count=count if count is not None else (len(default) if isinstance(default, tuple) else None),
        low=low,
        high=high,
        above=above,
        below=below,
        ascending=ascending,
        flag=flag,
        alias=alias,
        architecture=architecture,
        metavar=metavar,
    )
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class RunConfig:
    """run"""

    text: str | None = opt(None, "what to make, in words", kind=str)
    negative: str = opt("", "what the pictures must not show (negative prompt)")
    workspace: str = opt("workspace", "folder of this run: checkpoints, logs, pictures, video, mesh", metavar="DIR")
    seed: int = opt(0, "every random number of a run follows from it", low=0, high=2**63 - 1)
    ckpt: str = opt("latest", "latest, scratch (start anew, keep the old run aside), best, latest_model, or a file")
    test: bool = opt(False, "render the turntable of a trained run instead of training")
    six_views: bool = opt(False, "render front, left, back, right, top and bottom of a trained run")
    file: str | None = opt(None, "read options from this file; the command line wins over it", kind=str, metavar="PATH")
    O: bool = opt(False, "preset: --fp16 --cuda_ray", flag="-O")  # noqa: E741  (the option's name)
    O2: bool = opt(False, "preset: --fp16 --no_cuda_ray --backbone vanilla --progressive_level", flag="-O2")
    device: str = opt("auto", "auto (an accelerator where there is one), cpu, cuda or cuda:<n>")
    ops: str | None = opt(
        None,
        "native: compiled operators; torch: their plain references (TADPOLE_OPS, or else native)",
        kind=str,
        choices=("native", "torch"),
    )
    debug: bool = opt(False, "show the traceback of an error")


@dataclass(frozen=True)
class GuidanceConfig:
    """guidance: the diffusion model that judges the pictures"""

    guidance: tuple[str, ...] = opt(
        (),
        "SD: Stable Diffusion, the default where an accelerator and the weights are; "
        "IF: DeepFloyd IF, which denoises pixels; toybox: the small model in this repository, the default elsewhere",
        kind=str,
        choices=("SD", "IF", "toybox"),
        count=0,
    )
    guidance_device: str | None = opt(
        None, "where the guidance computes: cpu, cuda or cuda:<n>, e.g. a second GPU (that of --device)", kind=str
    )
    eager: bool = opt(False, "start the diffusion model's kernels one by one: no CUDA graph, no TorchScript")
    IF: bool = opt(False, "preset: --guidance IF --latent_iter_ratio 0")
    guidance_scale: float = opt(100.0, "strength of classifier-free guidance", low=0)
    guidance_anneal: float = opt(0.0, "move --guidance_scale to this over the run; 0: constant", low=0)
    sd_version: str = opt("2.1", "version of Stable Diffusion", choices=("1.5", "2.0", "2.1"))
    hf_key: str | None = opt(
        None, "another model: a repo id, a diffusers folder, or a .safetensors or .ckpt file", kind=str
    )
    prediction_type: str | None = opt(
        None,
        "what the model was trained to predict (what its configuration says; a single file has none)",
        kind=str,
        choices=("epsilon", "v_prediction"),
    )
    local_files_only: bool = opt(False, "download nothing: the model is in the cache, or the run ends")
    t_range: tuple[float, float] = opt(
        (0.02, 0.98), "range of timesteps, as fractions of the schedule", low=0, high=1, ascending=True
    )
    t_schedule: str = opt(
        "uniform",
        "timesteps: anywhere in --t_range; anneal: its upper end falls to --t_anneal; dreamtime: from high to low",
        choices=("uniform", "anneal", "dreamtime"),
    )
    t_anneal: float = opt(0.2, "where the upper end of --t_range arrives with --t_schedule anneal", low=0, high=1)
    distill: str = opt("sds", "the distillation rule", choices=("sds", "csd", "nfsd", "sdi", "ism", "hifa"))
    distill_space: str = opt(
        "latents",
        "where pictures are led to the target: through the latents, or to the pixels that it decodes to",
        choices=("latents", "pixels"),
    )
    cfg_rescale: float = opt(0.0, "draw the guided prediction to the spread of the prompted one, 0 to 1", low=0, high=1)
    perpneg: bool = opt(False, "Perp-Neg: negative prompts for the sides that must not show")
    negative_w: float = opt(-2.0, "weight of Perp-Neg's negative prompts", high=0)
    front_decay_factor: float = opt(2.0, "how fast Perp-Neg's front prompt fades with azimuth", low=0)
    side_decay_factor: float = opt(10.0, "how fast Perp-Neg's side prompt fades with azimuth", low=0)
    lambda_guidance: float = opt(1.0, "weight of the guidance loss", low=0)
    toybox_dir: str = opt(str(ROOT / "toybox" / "prior"), "folder of the toybox prior", metavar="DIR")
    save_guidance: bool = opt(False, "save pictures of what the diffusion model sees and wants")
    save_guidance_interval: int = opt(10, "steps between these pictures", low=1)


@dataclass(frozen=True)
class TrainingConfig:
    """training"""

    iters: int = opt(10000, "training steps", low=1)
    lr: float = opt(1e-3, "learning rate (Adan: 5 times this; encoder: 10 times)", above=0)
    lr_decay: float | None = opt(
        None,
        "share of the learning rate that is left at the end, in even factors a step (1; --backbone vanilla: 0.1)",
        kind=float,
        above=0,
        high=1,
    )
    optim: str = opt("adan", "optimiser", choices=("adan", "adam"))
    ema_decay: float = opt(0.95, "decay per step of the averaged weights that are shown and exported", low=0, below=1)
    fp16: bool = opt(False, "mixed precision, where it pays")
    vram: float | None = opt(
        None, "GB of GPU memory to get by with (what is free); Stable Diffusion is made to fit", kind=float, above=0
    )
    vram_O: bool = opt(False, "as little GPU memory as keeps the pictures whole: --vram 4")
    batch_size: int = opt(1, "pictures per step", low=1, high=1024)
    w: int = opt(64, "width of the training pictures in pixels", low=8, high=4096)
    h: int = opt(64, "height of the training pictures in pixels", low=8, high=4096)
    end_h: int | None = opt(
        None,
        "height of the training pictures at the end of the run, the width in proportion (--h)",
        kind=int,
        low=8,
        high=4096,
    )
    end_iter_ratio: float = opt(0.4, "share of the run that has pictures of --end_h", low=0, high=1)
    latent_iter_ratio: float = opt(0.2, "share of the run that trains on normals as latents", low=0, high=1)
    albedo_iter_ratio: float = opt(0.0, "share of the run, after that, without shading", low=0, high=1)
    min_ambient_ratio: float = opt(0.1, "least ambient light of a shaded step", low=0, high=1)
    textureless_ratio: float = opt(0.2, "share of the shaded steps without texture", low=0, high=1)
    grad_clip: float = opt(-1.0, "clip the gradient of the guidance at this; negative: off")
    grad_clip_rgb: float = opt(-1.0, "clip the gradient of the picture at this; negative: off")
    exp_start_iter: int | None = opt(None, "first step of the schedules (0)", kind=int, low=0)
    exp_end_iter: int | None = opt(None, "last step of the schedules (iters)", kind=int, low=1)
    background: str = opt(
        "network",
        "behind the object: the network in every second step, else a random color; color; grey; grey_or_color",
        choices=("network", "color", "grey", "grey_or_color"),
    )
    dataset_size_train: int = opt(100, "steps in an epoch", low=1)
    dataset_size_valid: int = opt(8, "views of a validation", low=1)


@dataclass(frozen=True)
class MarchingConfig:
    """marching: samples along the rays"""

    cuda_ray: bool | None = opt(
        None, "packed ray marching through an occupancy grid (on, wherever its kernels build)", kind=bool
    )
    taichi_ray: bool = opt(False, "accepted: the native kernels serve")
    max_steps: int = opt(1024, "most samples of a ray (--cuda_ray)", low=1)
    num_steps: int = opt(64, "samples of a ray (--no_cuda_ray)", low=1)
    upsample_steps: int = opt(32, "samples added where the density is (--no_cuda_ray)", low=0)
    update_extra_interval: int = opt(16, "steps between updates of the occupancy grid", low=1)
    occupancy_resolution: int = opt(
        128, "cells of the occupancy grid along a side, a power of two", low=4, high=1024, architecture=True
    )
    max_ray_batch: int = opt(4096, "rays at a time outside training (--no_cuda_ray)", low=1)
    dt_gamma: float = opt(0.0, "samples grow with distance by this factor; 0: equal", low=0)
    min_near: float = opt(0.01, "nearest sample to the camera, in scene units", low=0)
    bound: float = opt(1.0, "the scene is the box [-bound, bound]^3", above=0, high=2**15, architecture=True)


@dataclass(frozen=True)
class ModelConfig:
    """model: the field that is trained"""

    backbone: str = opt(
        "grid",
        "hash grid with a small network, the same of tiny-cuda-nn (GPU), or a network alone; grid_taichi means grid",
        choices=("grid", "grid_tcnn", "vanilla", "grid_taichi"),
        architecture=True,
    )
    num_levels: int = opt(16, "levels of the hash grid", low=1, high=32, architecture=True)
    level_dim: int = opt(2, "features per level: 1, 2, 4 or 8", low=1, high=8, architecture=True)
    log2_hashmap_size: int = opt(19, "log2 of the entries of a level", low=4, high=24, architecture=True)
    base_resolution: int = opt(16, "cells of the coarsest level", low=2, architecture=True)
    desired_resolution: int = opt(2048, "cells of the finest level, times bound", low=2, architecture=True)
    hidden_dim: int = opt(64, "width of the network", low=1, architecture=True)
    num_layers: int = opt(3, "layers of the network", low=1, architecture=True)
    bg_radius: float = opt(1.4, "radius of the background sphere; 0 or less: no background network", architecture=True)
    density_activation: str = opt("exp", "from network to density", choices=("exp", "softplus"), architecture=True)
    density_thresh: float = opt(10.0, "density below which space counts as empty", above=0)
    blob_density: float = opt(5.0, "density of the blob the run starts from", low=0, architecture=True)
    blob_radius: float = opt(0.2, "radius of that blob in scene units", above=0, architecture=True)
    normal_mode: str = opt("finite", "normals by finite differences or by autograd", choices=("finite", "analytic"))
    normal_step: float = opt(0.01, "half the distance of those differences, scene units; more smooths", above=0)
    progressive_level: bool = opt(False, "start with the coarse levels of the grid")


@dataclass(frozen=True)
class CameraConfig:
    """camera: where training looks from"""

    radius_range: tuple[float, float] = opt(
        (3.0, 3.5), "distance to the origin in scene units", above=0, ascending=True
    )
    theta_range: tuple[float, float] = opt(
        (45.0, 105.0), "polar angle in degrees, 0 above, 90 level", low=0, high=180, ascending=True
    )
    phi_range: tuple[float, float] = opt(
        (-180.0, 180.0), "azimuth in degrees, 0 front, 90 the object's left", low=-360, high=360, ascending=True
    )
    fovy_range: tuple[float, float] = opt(
        (10.0, 30.0), "vertical field of view in degrees", above=0, high=170, ascending=True
    )
    jitter_pose: bool = opt(False, "move the cameras a little at random")
    jitter_center: float = opt(0.2, "size of the move of the position, in scene units", low=0)
    jitter_target: float = opt(0.2, "size of the move of the target", low=0)
    jitter_up: float = opt(0.02, "size of the tilt of the up vector", low=0)
    uniform_sphere_rate: float = opt(
        0.0, "share of views drawn evenly from the upper half of the sphere", low=0, high=1
    )
    progressive_view: bool = opt(False, "start with front views and widen")
    progressive_view_init_ratio: float = opt(0.2, "share of the view ranges to start with", low=0, high=1)
    view_words: bool = opt(True, "say in the prompt which side is seen: front, side, back or overhead view")
    angle_overhead: float = opt(30.0, "polar angles below this are called overhead views", low=0, high=90)
    angle_front: float = opt(60.0, "width in degrees of the front views", above=0, high=180)


@dataclass(frozen=True)
class LossConfig:
    """losses: weights, 0 turns one off"""

    lambda_entropy: float = opt(1e-3, "opacity of a pixel: 0 or 1, nothing between", low=0)
    lambda_opacity: float = opt(0.0, "less opacity in the picture", low=0)
    lambda_orient: float = opt(1e-2, "no normals that face away from the camera", low=0)
    lambda_tv: float = opt(0.0, "total variation of the hash grid", low=0)
    lambda_wd: float = opt(0.0, "weight decay of the hash grid", low=0)
    lambda_2d_normal_smooth: float = opt(0.0, "smooth picture of normals", low=0)
    lambda_3d_normal_smooth: float = opt(0.0, "smooth normals in space", low=0)


@dataclass(frozen=True)
class ResultsConfig:
    """results"""

    save_mesh: bool = opt(False, "extract a textured mesh after training; without --text, from a trained run")
    mcubes_resolution: int = opt(256, "cells of marching cubes along a side", low=8, high=2048)
    decimate_target: int = opt(50000, "most faces of the mesh, at least 4; 0 or less: all")
    texture_size: int = opt(1024, "side of the texture in pixels", low=16, high=16384)
    frames: int = opt(100, "frames of the turntable", low=1, high=10000, alias="--dataset_size_test")
    video_size: int = opt(512, "side of the frames of --test and --six_views in pixels", low=16, high=4096)
    eval_interval: int = opt(1, "epochs between validations", low=1)
    test_interval: int = opt(100, "epochs between turntables while training", low=1)


@dataclass(frozen=True)
class Config:
    """All options. Only main.py, nerf/build.py and the checkpoint see the whole of it."""

    run: RunConfig = field(default_factory=RunConfig)
    guidance: GuidanceConfig = field(default_factory=GuidanceConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    marching: MarchingConfig = field(default_factory=MarchingConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    camera: CameraConfig = field(default_factory=CameraConfig)
    losses: LossConfig = field(default_factory=LossConfig)
    results: ResultsConfig = field(default_factory=ResultsConfig)

    def flat(self) -> dict[str, Any]:
        """{option: value} in the order of the groups, plain types only: what config.json holds."""
        return {name: value for group in asdict(self).values() for name, value in group.items()}

    def updated(self, values: dict[str, Any]) -> Config:
        """A copy with these options replaced; lists become tuples, names that are no option raise ValueError."""
        known = options()
        if unknown := [name for name in values if name not in known]:
            raise ValueError(f"no such option: {unknown[0]}")
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        return replace(
            self,
            **{
                group.name: replace(
                    getattr(self, group.name),
                    **{f.name: values[f.name] for f in fields(group_class(group)) if f.name in values},
                )
                for group in fields(self)
            },
        )

    @property
    def guided_on(self) -> str:
        """The device of the guidance, as typed."""
        return self.guidance.guidance_device or self.run.device

    def fingerprint(self) -> dict[str, Any]:
        """What a checkpoint must agree on: the prompt and every option that shapes the model. JSON-able."""
        values = self.flat()
        shape = {name: values[name] for name, f in options().items() if f.metadata["architecture"]}
        if shape["backbone"] == "grid_taichi":  # another name of the same field
            shape["backbone"] = "grid"
        return {"text": self.run.text, "architecture": shape}


def group_class(group: Field) -> type:
    """The dataclass of a group of `Config`."""
    assert group.default_factory is not MISSING
    return group.default_factory


def options() -> dict[str, Field]:
    """{option: its field} over all groups; the names are unique."""
    return {f.name: f for group in fields(Config) for f in fields(group_class(group))}


def spelling(name: str) -> str:
    """The option as the user types it, e.g. --radius_range or -O."""
    return options()[name].metadata["flag"] or f"--{name}"
