"""What each approximation does to the gradient of a training step: its cosine with the exact one.

    python scripts/compare_gradients.py --text "a frog" --text "a blue house" --json docs/gradients.json

Trains each prompt under Toybox's preset, and at some of its steps takes the gradient that the same step, with the same
weights and random numbers, has in other ways: once exactly (all in float32, 1024 samples a ray at most; with light and
normals by autograd where normals are compared), and once with each approximation alone.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from common.openmp import wait_briefly  # noqa: E402

wait_briefly()  # as in a run

import torch  # noqa: E402
from torch import Tensor  # noqa: E402
from tqdm import tqdm  # noqa: E402

import extension  # noqa: E402
from guidance.stable_diffusion import default_precision  # noqa: E402
from nerf import build, cli  # noqa: E402
from nerf.config import Config  # noqa: E402
from nerf.export.files import write_json  # noqa: E402
from nerf.trainer import Trainer  # noqa: E402

EXACT = ("--max_steps", "1024")
LIT = ("--max_steps", "1024", "--albedo_iter_ratio", "0", "--textureless_ratio", "0", "--normal_mode", "analytic")


@dataclass(frozen=True)
class Mode:
    """A way to compute the gradient of a step."""

    options: tuple[str, ...] = ()  # for main.py, after those of what it is compared with
    against: tuple[str, ...] = EXACT
    half: bool = False  # needs half precision, which not every machine has
    steady: bool = True  # the autoencoder computes in float32
    plan: str = ""  # of guidance/memory.py that the guidance is brought to


MODES = {
    "torch's operators": Mode(("--ops", "torch", "--cuda_ray")),  # no approximation: what rounding does
    "field's network in bf16": Mode(("--fp16",), half=True),
    "autoencoder in half precision": Mode(half=True, steady=False),
    "UNet in 8 bits": Mode(plan="8-bit UNet"),
    "512 samples a ray": Mode(("--max_steps", "512")),
    "256 samples a ray": Mode(("--max_steps", "256")),
    "128 samples a ray": Mode(("--max_steps", "128")),
    "64 samples a ray": Mode(("--max_steps", "64")),
    "samples that grow by 1/128": Mode(("--dt_gamma", str(1 / 128))),
    "lit, normals over 0.01": Mode(("--normal_mode", "finite", "--normal_step", "0.01"), LIT),
    "lit, normals over 0.03": Mode(("--normal_mode", "finite", "--normal_step", "0.03"), LIT),
    "lit, normals over 0.06": Mode(("--normal_mode", "finite", "--normal_step", "0.06"), LIT),
    "another seed": Mode(("--seed", "1")),  # other views and other noise: what a gradient is good for
}
HEADS = ("", "least cosine", "median", "off")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", action="append", help="a prompt; may be given more than once (a frog)")
    parser.add_argument("--steps", type=int, nargs="+", default=[10, 100, 200, 300, 400, 500, 590], help="of a run")
    parser.add_argument("--only", action="append", choices=tuple(MODES), metavar="ROW", help="these rows alone")
    parser.add_argument("--json", type=Path)
    parser.add_argument("rest", nargs="*", help="after --: options for main.py")
    options = parser.parse_args()
    modes = {name: MODES[name] for name in options.only or MODES}
    try:
        config = configured(options.rest)
        precision = default_precision(build.build_device(config.guided_on))
    except ValueError as error:
        parser.error(str(error))
    if not 0 <= min(options.steps) <= max(options.steps) < config.training.iters:
        parser.error(f"--steps needs steps of a run, 0 to {config.training.iters - 1}, got {options.steps}")
    if precision == "fp32" and (lacking := [name for name, mode in modes.items() if mode.half]):
        print(f"left out, without half precision here: {', '.join(lacking)}", file=sys.stderr)
        modes = {name: mode for name, mode in modes.items() if not mode.half}
    rows = [row for text in options.text or ["a frog"] for row in compare(text, options.steps, modes, options.rest)]
    print(table(rows))
    if options.json:
        found = {"options": options.rest, "precision": precision, "torch": torch.__version__, "rows": rows}
        write_json(options.json, found)


def compare(text: str, steps: list[int], modes: dict[str, Mode], rest: list[str]) -> list[dict]:
    """A row for each mode and step, with the figures of `alike`."""
    with tempfile.TemporaryDirectory() as workspace:
        common = ["--text", text, "--workspace", workspace, *rest]
        run = Trained(common)
        exact = {options: Trained([*common, *options], steady=True) for options in {m.against for m in modes.values()}}
        others = {
            name: Trained([*common, *mode.against, *mode.options], steady=mode.steady, plan=mode.plan)
            for name, mode in modes.items()
        }
        rows = []
        for step in tqdm(range(max(steps) + 1), desc=text, unit="step"):
            if step in steps:
                state = run.trainer.renderer.state_dict()
                true = {options: side.gradient(step, state) for options, side in exact.items()}
                for name, side in others.items():
                    figures = alike(side.gradient(step, state), true[modes[name].against])
                    rows.append({"text": text, "mode": name, "step": step, **figures})
            extension.set_mode(run.config.run.ops)
            run.trainer.train_step()
    return rows


class Trained:
    """A trainer, and the operators it computes with.

    Args:
        words: For main.py.
        steady: The autoencoder computes in float32.
        plan: Of guidance.memory.PLANS that the guidance is brought to; "": the one it has.
    """

    def __init__(self, words: list[str], *, steady: bool = False, plan: str = ""):
        self.config = configured(words)
        extension.set_mode(self.config.run.ops)
        self.trainer: Trainer = build.build_trainer(self.config, build.build_device(self.config.run.device))
        self.trainer.renderer.train()
        for prior in self.trainer.guidance.values():
            if steady:
                prior.steady()
            while plan and prior.plan.name != plan:
                if prior.economise() is None:
                    raise ValueError(f"there is no plan {plan!r} of guidance/memory.py")

    def gradient(self, step: int, state: dict[str, Tensor]) -> Tensor:
        """Of all parameters at a step, with the weights and the occupancy of `state`. float64 [P]"""
        extension.set_mode(self.config.run.ops)
        self.trainer.renderer.load_state_dict(state)
        self.trainer.gradients(self.trainer.schedule.plan(step))
        parts = [(torch.zeros_like(p) if p.grad is None else p.grad) for p in self.trainer.renderer.parameters()]
        return torch.cat([part.detach().flatten().double().cpu() for part in parts])


def configured(words: list[str]) -> Config:
    """As main.py would be, with Toybox unless they say another guidance."""
    return cli.parse(["--guidance", "toybox", "--text", "a frog", *words]).config


def alike(gradient: Tensor, exact: Tensor) -> dict[str, float]:
    """Of two gradients [P]: their cosine, their lengths, and that of their difference."""
    lengths = {"length": gradient, "exact": exact, "off": gradient - exact}
    cosine = float(torch.cosine_similarity(gradient, exact, 0))
    return {"cosine": cosine, **{name: float(each.norm()) for name, each in lengths.items()}}


def table(rows: list[dict]) -> str:
    """Markdown: a line for each mode over all prompts and steps. `off`: beside the lengths of all of them together."""
    lines = [HEADS, ("---", "---:", "---:", "---:")]
    for mode in dict.fromkeys(row["mode"] for row in rows):
        mine = [row for row in rows if row["mode"] == mode]
        cosines = [row["cosine"] for row in mine]
        off = math.hypot(*(row["off"] for row in mine)) / math.hypot(*(row["exact"] for row in mine))
        lines.append((mode, f"{min(cosines):.5f}", f"{statistics.median(cosines):.5f}", f"{off:.2%}"))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
