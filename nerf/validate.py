"""Whether the options make sense: ranges, counts, choices, and what they mean together. Touches no file."""

from __future__ import annotations

import math
import re
from typing import Any

from nerf.config import Config, options, spelling

# Choices of the tool this command line comes from that are not here, and what to take instead.
NOT_YET = {
    "guidance": {"IF": "SD or toybox", "zero123": "SD or toybox", "clip": "SD or toybox"},
    "backbone": {"grid_tcnn": "grid, whose kernels need no tinycudann"},
}


def validate(config: Config) -> None:
    """Raise ValueError, one line in the user's spelling, for the first option that makes no sense."""
    values = config.flat()
    for name, option in options().items():
        meta, value = option.metadata, values[name]
        if value is None or meta["kind"] is bool:
            continue
        for item in value if isinstance(value, tuple) else (value,):
            _check_choice(name, meta["choices"], item)
        if meta["kind"] in (int, float):
            _check_numbers(name, meta, value)
    _check_together(config)


def _check_choice(name: str, choices: tuple[str, ...], value: Any) -> None:
    if not choices or value in choices:
        return
    if instead := NOT_YET.get(name, {}).get(value):
        raise ValueError(f"{spelling(name)} {value} is not supported yet: use {instead}")
    raise ValueError(f"{spelling(name)} needs one of {', '.join(choices)}, got {value!r}")


def _check_numbers(name: str, meta: dict[str, Any], value: Any) -> None:
    items = value if isinstance(value, tuple) else (value,)
    low, high, above, count = meta["low"], meta["high"], meta["above"], meta["count"]
    got = f"got {' '.join(str(item) for item in items)}"
    if count and len(items) != count:
        raise ValueError(f"{spelling(name)} needs {count} numbers, {got or 'got none'}")
    if not all(math.isfinite(item) for item in items):
        raise ValueError(f"{spelling(name)} needs finite numbers, {got}")
    inside = all(
        (low is None or item >= low) and (high is None or item <= high) and (above is None or item > above)
        for item in items
    )
    if inside and (not meta["ascending"] or items[0] <= items[1]):
        return
    raise ValueError(f"{spelling(name)} needs {_bounds(meta)}, {got}")


def _bounds(meta: dict[str, Any]) -> str:
    """0 < min <= max for a pair; at least 1, from 0 to 1 and the like for one value."""
    low, high, above = meta["low"], meta["high"], meta["above"]
    if meta["ascending"]:
        smallest = f"{low} <= " if low is not None else f"{above} < " if above is not None else ""
        return f"{smallest}min <= max" + (f" <= {high}" if high is not None else "")
    if low is not None and high is not None:
        return f"a value from {low} to {high}"
    if high is not None:
        return f"at most {high}"
    return f"at least {low}" if low is not None else f"more than {above}"


def _check_together(config: Config) -> None:
    run, guidance, training, model = config.run, config.guidance, config.training, config.model
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", run.device):
        raise ValueError(f"--device needs auto, cpu, cuda or cuda:<n>, got {run.device!r}")
    if not run.workspace.strip():
        raise ValueError("--workspace needs the name of a folder, got an empty one")
    if not run.ckpt.strip():
        raise ValueError("--ckpt needs latest, scratch, best, latest_model or a file, got an empty name")
    if guidance.hf_key is not None and not guidance.hf_key.strip():
        raise ValueError("--hf_key needs a repo id, a diffusers folder or a .safetensors file, got an empty name")
    if len(set(guidance.guidance)) != len(guidance.guidance):
        raise ValueError(f"--guidance needs different models, got {' '.join(guidance.guidance)}")
    if guidance.t_anneal and not guidance.t_range[0] <= guidance.t_anneal <= guidance.t_range[1]:
        raise ValueError(
            f"--t_anneal needs 0 (off) or a value inside --t_range {_join(guidance.t_range)}, got {guidance.t_anneal}"
        )
    first, last = training.exp_start_iter or 0, training.exp_end_iter or training.iters
    if first >= last:
        raise ValueError(f"--exp_start_iter needs a step before the last one of the schedules ({last}), got {first}")
    if model.level_dim not in (1, 2, 4, 8):
        raise ValueError(f"--level_dim needs one of 1, 2, 4, 8, got {model.level_dim}")
    if model.desired_resolution < model.base_resolution:
        raise ValueError(
            f"--desired_resolution needs at least --base_resolution {model.base_resolution}, "
            f"got {model.desired_resolution}"
        )
    if run.text is not None and not run.text.strip():
        raise ValueError('--text is empty: say what to make, e.g. --text "a frog"')


def _join(values: tuple[Any, ...]) -> str:
    return " ".join(str(value) for value in values)
