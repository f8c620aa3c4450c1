"""Whether the options make sense: each by itself, together, and on this machine. Imports no torch."""

from __future__ import annotations

import importlib.util
import math
import re
from collections.abc import Callable
from typing import Any

from nerf import select_guidance
from nerf.config import Config, options, spelling
from nerf.losses import LOSSES, FieldLoss

# Choices of the tool this command line comes from that are not here, and what to take instead.
NOT_YET = {
    "guidance": {"zero123": "SD, IF or toybox", "clip": "SD, IF or toybox"},
}
# What bounds and choices cannot say: option -> (whether a value will do, what it needs to be).
NEEDS: dict[str, tuple[Callable[[Any], object], str]] = {
    "text": (str.strip, 'what to make in words, e.g. "a frog"'),
    "workspace": (str.strip, "the name of a folder"),
    "ckpt": (str.strip, "latest, scratch, best, latest_model or a file"),
    "device": (lambda name: re.fullmatch(r"auto|cpu|cuda(:\d+)?", name), "auto, cpu, cuda or cuda:<n>"),
    "guidance_device": (lambda name: re.fullmatch(r"cpu|cuda(:\d+)?", name), "cpu, cuda or cuda:<n>"),
    "guidance": (lambda names: len(set(names)) == len(names), "different models"),
    "hf_key": (str.strip, "a repo id, a diffusers folder or a file"),
    "level_dim": (lambda features: features in (1, 2, 4, 8), "one of 1, 2, 4, 8"),
    "occupancy_resolution": (lambda cells: cells & (cells - 1) == 0, "a power of two from 4 to 1024"),
    "decimate_target": (lambda faces: faces <= 0 or faces >= 4, "at least 4 faces, or 0 for all of them"),
}
# What changes the guided prediction -> the rules of distillation that it does not go with: NFSD takes no guided
# prediction, and what CSD takes off it, the prediction without a prompt, is no longer a part of a rescaled one.
GUIDED = {"perpneg": ("nfsd",), "cfg_rescale": ("nfsd", "csd")}
FINEST = 2**22  # most cells of a level along a side (gridencoder/csrc/host.h)
TCNN = 'pip install --no-build-isolation "git+https://github.com/NVlabs/tiny-cuda-nn/#subdirectory=bindings/torch"'
TCNN_WIDTHS = (16, 32, 64, 128)  # of its fully fused MLP


def validate(config: Config) -> None:
    """Raise ValueError, one line in the user's spelling, for the first option that makes no sense."""
    validate_values(config.flat())
    _check_together(config)


def validate_values(values: dict[str, Any]) -> None:
    """The same for each of these options by itself, whatever the others will be."""
    for name, value in values.items():
        meta = options()[name].metadata
        if value is None or meta["kind"] is bool:
            continue
        for item in value if isinstance(value, tuple) else (value,):
            _check_choice(name, meta["choices"], item)
        if meta["kind"] in (int, float):
            _check_numbers(name, meta, value)
        will_do, what = NEEDS.get(name, (None, ""))
        if will_do and not will_do(value):
            got = _join(value) if isinstance(value, tuple) else repr(value)
            raise ValueError(f"{spelling(name)} needs {what}, got {got}")


def _check_choice(name: str, choices: tuple[str, ...], value: Any) -> None:
    if not choices or value in choices:
        return
    if instead := NOT_YET.get(name, {}).get(value):
        raise ValueError(f"{spelling(name)} {value} is not supported yet: use {instead}")
    raise ValueError(f"{spelling(name)} needs one of {', '.join(choices)}, got {value!r}")


def _check_numbers(name: str, meta: dict[str, Any], value: Any) -> None:
    items = value if isinstance(value, tuple) else (value,)
    low, high, above, below = meta["low"], meta["high"], meta["above"], meta["below"]
    got = f"got {_join(items)}"
    if meta["count"] and len(items) != meta["count"]:
        raise ValueError(f"{spelling(name)} needs {meta['count']} numbers, {got}")
    if not all(math.isfinite(item) for item in items):
        raise ValueError(f"{spelling(name)} needs finite numbers, {got}")
    inside = all(
        (low is None or item >= low)
        and (high is None or item <= high)
        and (above is None or item > above)
        and (below is None or item < below)
        for item in items
    )
    if inside and (not meta["ascending"] or items[0] <= items[1]):
        return
    raise ValueError(f"{spelling(name)} needs {_bounds(meta)}, {got}")


def _bounds(meta: dict[str, Any]) -> str:
    """0 < min <= max for a pair; at least 1, from 0 to 1 and the like for one value."""
    low, high, above, below = meta["low"], meta["high"], meta["above"], meta["below"]
    if meta["ascending"]:
        smallest = f"{low} <= " if low is not None else f"{above} < " if above is not None else ""
        return f"{smallest}min <= max" + (f" <= {high}" if high is not None else "")
    if low is not None and high is not None:
        return f"a value from {low} to {high}"
    words = {"at least": low, "more than": above, "at most": high, "less than": below}
    return " and ".join(f"{word} {bound}" for word, bound in words.items() if bound is not None)


def _check_together(config: Config) -> None:
    run, guidance, training = config.run, config.guidance, config.training
    for option, device in (("--device", run.device), ("--guidance_device", guidance.guidance_device or "cpu")):
        if device.startswith("cuda") and not select_guidance.has_accelerator(device):
            raise ValueError(f"{option} {device} needs a GPU that torch can use, got none: use {option} cpu")
    annealed = guidance.t_schedule == "anneal"
    if annealed and not guidance.t_range[0] <= guidance.t_anneal <= guidance.t_range[1]:
        raise ValueError(
            f"--t_anneal needs a value inside --t_range {_join(guidance.t_range)}, got {guidance.t_anneal}"
        )
    if not annealed and guidance.t_anneal != Config().guidance.t_anneal:
        raise ValueError(f"--t_anneal {guidance.t_anneal} belongs to --t_schedule anneal, got {guidance.t_schedule}")
    if guidance.perpneg and not config.camera.view_words:
        raise ValueError("--perpneg sets the prompts of the views against each other, got --no_view_words: drop one")
    for name, rules in GUIDED.items():
        if (value := getattr(guidance, name)) and guidance.distill in rules:
            typed = f"--{name}" if value is True else f"--{name} {value}"
            rule = f"--distill {guidance.distill}"
            raise ValueError(f"{typed} does not go with {rule}, which guides by a formula of its own: drop one")
    first, last = training.exp_start_iter or 0, training.exp_end_iter or training.iters
    if first >= last:
        raise ValueError(f"--exp_start_iter needs a step before the last one of the schedules ({last}), got {first}")
    if config.marching.taichi_ray and config.marching.cuda_ray is False:
        raise ValueError("--taichi_ray marches packed rays like --cuda_ray, got --no_cuda_ray: drop one")
    _check_grid(config)


def _check_grid(config: Config) -> None:
    """The levels of the hash grid exist, and so does the grid itself where something asks for it."""
    model, bound = config.model, config.marching.bound
    if model.backbone in ("vanilla", "grid_tcnn"):
        for name, loss in LOSSES.items():
            if isinstance(loss, FieldLoss) and (weight := getattr(config.losses, f"lambda_{name}")):
                raise ValueError(f"--lambda_{name} {weight} needs --backbone grid, got {model.backbone}")
    if model.backbone == "vanilla":
        return
    finest = round(model.desired_resolution * bound)
    if not model.base_resolution <= finest <= FINEST:
        raise ValueError(
            f"--desired_resolution times --bound needs a value from {model.base_resolution} (--base_resolution) to "
            f"{FINEST}, got {model.desired_resolution} * {bound:g} = {finest}"
        )
    if model.backbone == "grid_tcnn":
        _check_tcnn(config)


def _check_tcnn(config: Config) -> None:
    """tiny-cuda-nn is here, and has the network that is asked for."""
    model, need = config.model, "--backbone grid_tcnn needs"
    if model.hidden_dim not in TCNN_WIDTHS:
        raise ValueError(f"{need} --hidden_dim {', '.join(map(str, TCNN_WIDTHS))}, got {model.hidden_dim}")
    if model.num_layers < 2:
        raise ValueError(f"{need} --num_layers 2 or more, got {model.num_layers}")
    if model.normal_mode == "analytic":  # its network has no second derivative
        raise ValueError(f"{need} --normal_mode finite, got analytic")
    if not select_guidance.has_accelerator(config.run.device):
        raise ValueError(f"{need} a GPU that torch can use, got none: use --backbone grid")
    if importlib.util.find_spec("tinycudann") is None:
        raise ValueError(f"{need} tiny-cuda-nn, which is not installed: {TCNN}, or use --backbone grid")


def _join(values: tuple[Any, ...]) -> str:
    return " ".join(str(value) for value in values)
