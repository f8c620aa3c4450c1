"""The command line: the dataclasses of nerf/config.py as argparse, and what was typed as a `Config` again.

Order of precedence: defaults, presets (-O, -O2, then the guidance's own), the --file, the command line. For a command
on a trained run (--test, --six_views, --save_mesh without --text) the options stored in the checkpoint replace
the defaults, so that nothing has to be typed twice. Imports no torch.
"""

from __future__ import annotations

import argparse
import difflib
import re
import shlex
from collections.abc import Sequence
from dataclasses import Field, dataclass, fields
from decimal import Decimal
from pathlib import Path
from typing import Any, NoReturn

from nerf import checkpoint
from nerf.config import Config, group_class, options, spelling
from nerf.presets import PRESETS
from nerf.select_guidance import select_guidance
from nerf.validate import validate, validate_values

USAGE = 'python main.py --text "a frog" --workspace out [options]'
EPILOG = (
    "commands: without one, train; `python main.py doctor` checks this machine; `python main.py words` lists what "
    "Toybox understands; `python main.py download` fetches Stable Diffusion ahead of time; --test, --six_views and "
    "--save_mesh (without --text) work on the trained run in --workspace. A flag is turned off by --no_<name>."
)
# Options of stable-dreamfusion whose feature is not here.
NOT_YET = set(
    "--image --image_config --known_view_interval --known_view_scale --known_view_noise_scale --default_radius "
    "--default_polar --default_azimuth --default_fovy --zero123_config --zero123_ckpt --zero123_grad_scale "
    "--dmtet --tet_grid_size --init_with --lock_geo --dmtet_reso_scale --lambda_mesh_normal --lambda_mesh_laplacian "
    "--lambda_rgb --lambda_mask --lambda_normal --lambda_depth --gui --W --H --radius --fovy --light_theta --light_phi "
    "--max_spp".split()
)
# Options of stable-dreamfusion that are accepted and change nothing: name -> why.
NO_MEANING = {"dont_override_stuff": "presets never override what is typed"}
# Not taken from the checkpoint by a command on a trained run.
PER_CALL = set("test six_views save_mesh file ckpt workspace debug device guidance_device ops".split())
ALONE = {"doctor": "toybox", "words": "toybox", "download": "SD"}  # commands, and the guidance each is about
NEGATIVE_NUMBER = re.compile(r"-(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)


@dataclass(frozen=True)
class Request:
    """What one call of main.py asks for."""

    commands: tuple[str, ...]  # doctor | words | download | train | test, six_views, save_mesh
    config: Config
    notes: tuple[str, ...]  # one line each, to print before the work


def parse(argv: Sequence[str]) -> Request:
    """Read the command line (without the program's name).

    Raises:
        ValueError: one line in the user's spelling. SystemExit: --help was asked for and printed.
    """
    notes: list[str] = []
    words, typed = _typed(argv, notes)
    commands = _commands(typed)
    if words[:1] and words[0] in ALONE:
        commands, words = (words[0],), words[1:]
    if words:
        raise ValueError(f'unexpected {words[0]!r}: options begin with --, e.g. --text "a frog"')
    validate_values(typed)
    if commands[0] in ALONE:
        named = typed.get("guidance", ()) or (("IF",) if typed.get("IF") else (ALONE[commands[0]],))
        config, note = _configure({}, typed, named), ""
    elif commands == ("train",):
        config, note = _training(typed)
    else:
        config, note = _trained(commands, typed)
    validate(config)
    notes += [*([note] if note else []), *_notes(config, typed)]
    return Request(commands, config, tuple(notes))


def as_typed(values: dict[str, Any]) -> str:
    """Options as the user would type them, e.g. "--iters 400 --save_mesh --fovy_range 18 21"."""
    words = []
    for name, value in values.items():
        no = "no_" if value is False else ""
        words.append(spelling(name).replace("--", f"--{no}", 1))
        words += [] if isinstance(value, bool) else [_value(value)]
    return " ".join(words)


def _value(value: Any) -> str:
    return " ".join(f"{v:g}" for v in value) if isinstance(value, tuple) else str(value)


def build_parser() -> argparse.ArgumentParser:
    """argparse over the groups of `Config`; what was not typed is absent from the namespace."""
    parser = _Parser(
        prog="main.py",
        usage=USAGE,
        description="Turn a sentence into a 3D object.",
        epilog=f"{EPILOG} With Toybox the defaults are {as_typed(PRESETS['toybox'])}.",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=36, width=120),
    )
    for group in fields(Config):
        section = parser.add_argument_group(group_class(group).__doc__)
        for option in fields(group_class(group)):
            _add_option(section, option)
    section = parser.add_argument_group("accepted without effect")
    for name, reason in NO_MEANING.items():
        section.add_argument(f"--{name}", action="store_true", help=reason)
    return parser


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(re.sub(r"^argument ([^\s/]+)\S*: ", r"\1 ", message))


def _add_option(section: argparse._ArgumentGroup, option: Field) -> None:
    meta = option.metadata
    names = [spelling(option.name), *([meta["alias"]] if meta["alias"] else [])]
    text = (meta["help"] + _default(option)).replace("%", "%%")
    if meta["kind"] is bool:
        section.add_argument(*names, dest=option.name, action="store_true", help=text)
        if not meta["flag"]:
            section.add_argument(f"--no_{option.name}", dest=option.name, action="store_false", help=argparse.SUPPRESS)
        return
    metavar: Any = meta["metavar"] or {int: "N", float: "X", str: "TEXT"}[meta["kind"]]
    if meta["count"] == 2:
        metavar = ("MIN", "MAX")
    elif meta["choices"]:
        metavar = "{" + ",".join(meta["choices"]) + "}"
    count = "+" if meta["count"] == 0 else meta["count"]
    convert = {int: _whole_number, float: _number, str: str}[meta["kind"]]
    section.add_argument(*names, dest=option.name, type=convert, nargs=count, metavar=metavar, help=text)


def _default(option: Field) -> str:
    value = option.default
    if value is None or value is False or value in ("", ()):
        return ""
    return f" ({_value(value)})"


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"needs a number, got {text!r}") from None


def _whole_number(text: str) -> int:
    value = _number(text)  # 5e4 is a whole number
    if not value.is_integer():
        raise argparse.ArgumentTypeError(f"needs a whole number, got {text!r}")
    return int(text) if re.fullmatch(r"[+-]?\d+", text) else int(value)  # exact above 2^53


def _typed(argv: Sequence[str], notes: list[str]) -> tuple[list[str], dict[str, Any]]:
    """Words that are no option, and {option: value} of what was typed, the --file included."""
    parser = build_parser()
    words, typed = _read(parser, list(argv), notes)
    if "file" in typed:
        more, from_file = _read(parser, _file_arguments(typed["file"]), notes)
        if "file" in from_file:
            raise ValueError(f"--file {typed['file']}: an argument file cannot name another --file")
        words, typed = more + words, {**from_file, **typed}
    return words, typed


def _file_arguments(path: str) -> list[str]:
    """The arguments in a file: one option per line or as in a shell; # begins a comment."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")  # an editor may have put a mark there
        return shlex.split(text.replace("\\\n", " "), comments=True)
    except OSError as error:
        raise ValueError(f"--file {path}: {error.strerror or error}: give an argument file that exists") from None
    except ValueError as error:  # an open quotation, or not UTF-8
        raise ValueError(f"--file {path}: cannot be read as arguments ({error})") from None


def _read(parser: argparse.ArgumentParser, tokens: list[str], notes: list[str]) -> tuple[list[str], dict[str, Any]]:
    tokens = [format(Decimal(t), "f") if NEGATIVE_NUMBER.fullmatch(t) else t for t in tokens]  # argparse reads no -1e-3
    _check_counts(parser, tokens)
    namespace, words = parser.parse_known_args(tokens)
    typed = {k: tuple(v) if isinstance(v, list) else v for k, v in vars(namespace).items()}
    notes += [f"--{name} has no effect: {reason}" for name, reason in NO_MEANING.items() if typed.pop(name, False)]
    return words, typed


def _check_counts(parser: argparse.ArgumentParser, tokens: list[str]) -> None:
    """Unknown options and wrong numbers of values, with better words than argparse has."""
    positions = [i for i, token in enumerate(tokens) if _is_option(token)] + [len(tokens)]
    for i, end in zip(positions, positions[1:], strict=False):
        name, equals, value = tokens[i].partition("=")
        values = [value] * bool(equals) + tokens[i + 1 : end]
        action = parser._option_string_actions.get(name)
        if action is None:
            raise ValueError(_unknown(name, list(parser._option_string_actions)))
        got = " ".join(values)
        if action.nargs == 0 and values:
            raise ValueError(f"{name} takes no value, got {got!r}")
        if action.nargs is None and len(values) != 1:
            hint = f"got {len(values)}: put quotes around {got!r}" if values else "got none"
            following = tokens[end] if not values and end < len(tokens) else ""
            if following and following.partition("=")[0] not in parser._option_string_actions:
                hint = f"got none: a value that begins with - is written {name}={following}"
            raise ValueError(f"{name} needs one value, {hint}")
        if action.nargs == 2 and len(values) != 2:
            raise ValueError(f"{name} needs 2 numbers, got {f'{len(values)}: {got}' if values else 'none'}")
        if action.nargs == "+" and not values:
            raise ValueError(f"{name} needs a value, got none")


def _is_option(token: str) -> bool:
    name = token.partition("=")[0]
    return name.startswith("-") and len(name) > 1 and " " not in name and not NEGATIVE_NUMBER.fullmatch(token)


def _unknown(name: str, known: list[str]) -> str:
    if name in NOT_YET:
        return f"{name} is not supported yet; python main.py --help lists what is"
    near = difflib.get_close_matches(name, known, 1, 0.6)
    return f"unknown option {name}" + (f": did you mean {near[0]}?" if near else "; python main.py --help lists them")


def _commands(typed: dict[str, Any]) -> tuple[str, ...]:
    views = tuple(name for name in ("test", "six_views") if typed.get(name))
    mesh = ("save_mesh",) if typed.get("save_mesh") and (views or "text" not in typed) else ()
    return views + mesh or ("train",)


def _configure(defaults: dict[str, Any], typed: dict[str, Any], guidance: tuple[str, ...] = ()) -> Config:
    """defaults < presets < typed."""
    presets = [PRESETS[name] for name in ("O", "O2", "IF", "taichi_ray") if typed.get(name)]
    presets += [PRESETS[name] for name in ("toybox", "IF") if guidance == (name,)]
    presets += [{"guidance": guidance}] if guidance else []
    values = dict(defaults)
    for layer in (*presets, typed):
        values.update(layer)
    return Config().updated(values)


def _training(typed: dict[str, Any]) -> tuple[Config, str]:
    if "text" not in typed:
        raise ValueError('--text is needed: say what to make, e.g. python main.py --text "a frog" --workspace out')
    guidance, note = select_guidance(_configure({}, typed), typed)
    if typed.get("IF") and "IF" not in guidance:
        raise ValueError(f"--IF stands for --guidance IF, got --guidance {' '.join(guidance)}: drop one")
    for name in ("hf_key", "sd_version", "prediction_type"):
        if name in typed and guidance == ("toybox",):
            raise ValueError(f"{spelling(name)} belongs to Stable Diffusion, got --guidance toybox: drop one")
    return _configure({}, typed, guidance), note


def _trained(commands: tuple[str, ...], typed: dict[str, Any]) -> tuple[Config, str]:
    """The options of the run in the workspace, from its checkpoint; what is typed wins."""
    run = _configure({}, typed).run
    if run.ckpt == "scratch":
        raise ValueError(
            f"{spelling(commands[0])} needs a trained run, and --ckpt scratch begins a new one: leave it out"
        )
    path = checkpoint.find(run.workspace, run.ckpt)
    if path is None:
        raise ValueError(
            f"{spelling(commands[0])} needs a trained run, but {run.workspace} has no checkpoint: "
            f'train first, python main.py --text "a frog" --workspace {run.workspace}'
        )
    stored = checkpoint.read_meta(path).get("config", {})
    stored = {name: value for name, value in stored.items() if name in options() and name not in PER_CALL}
    return _configure({}, {**stored, **typed}), f"options of {path}, made for {stored.get('text')!r}"


def _notes(config: Config, typed: dict[str, Any]) -> list[str]:
    notes, training = [], config.training
    if config.model.backbone == "grid_taichi":
        notes.append("--backbone grid_taichi: the native kernels serve, same as --backbone grid")
    if config.marching.taichi_ray:
        notes.append("--taichi_ray: the native kernels serve, same as --cuda_ray")
    if config.run.ckpt == "best":
        notes.append("--ckpt best: score distillation ranks no checkpoints, the latest is taken")
    if typed.get("lambda_orient") and training.latent_iter_ratio == 0 and training.albedo_iter_ratio == 1:
        notes.append("--lambda_orient has no effect: it acts on normals, and no step has any (--albedo_iter_ratio 1)")
    if typed.get("background") == "network" and config.model.bg_radius <= 0:
        notes.append(f"--background network needs --bg_radius above 0, got {config.model.bg_radius:g}: color is taken")
    return notes
