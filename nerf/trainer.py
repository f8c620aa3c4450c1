"""The loop: render random views, ask the guidance how to change them, follow (DreamFusion, arXiv:2209.14988)."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from guidance.diffusion import DiffusionGuidance, picture_grid
from guidance.transfer import all_sent
from guidance.types import GuidanceBatch, GuidanceOutput
from nerf import checkpoint, losses
from nerf.cameras import sample_views
from nerf.export.files import png_bytes, to_uint8, write_bytes
from nerf.optim import EMA, resume, scale_lr
from nerf.renderers.base import Renderer
from nerf.runlog import RunLog
from nerf.schedule import Plan, Schedule
from nerf.seeding import step_generator
from nerf.types import Cameras, RenderOutput, Shading, Views
from nerf.watch import (
    ADVICE,
    LESS_GUIDED,
    LESS_RENDERED,
    Diverged,
    OutOfMemory,
    Tally,
    Verdict,
    Watch,
    concerns,
    lacks_memory,
)

LOG_INTERVAL = 10  # steps between two looks at the losses: each look waits for the GPU
BROKEN = "weights that are not finite"


@dataclass(frozen=True)
class Scene:
    """What a step looks at."""

    plan: Plan
    views: Views  # on the host
    cameras: Cameras
    shading: Shading
    background: Tensor | None


@dataclass
class Trainer:
    """Owns what changes during a run: renderer, optimizer, averaged weights, and the step.

    Every random number of a step follows from (seed, step) and everything else is in the checkpoint, so that an
    interrupted run that goes on ends with the same weights as an unbroken one, bit for bit on the CPU.
    """

    renderer: Renderer
    guidance: Mapping[str, DiffusionGuidance]  # name -> prior; the name is the name of its weight and its metrics
    schedule: Schedule
    optimizer: torch.optim.Optimizer
    ema: EMA
    workspace: Path
    meta: dict[str, Any]  # what a checkpoint says of itself beside its step
    grad_clip_rgb: float = -1.0  # clip the gradient of the picture at this; negative: off
    save_interval: int = 100  # steps of an epoch: between checkpoints, and calls of `validate`
    picture_interval: int = 0  # steps between pictures of what the guidance sees; 0: none
    validate: Callable[[int], None] | None = None  # called with the step, with the averaged weights in place
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    step: int = 0  # steps done
    good: Path | None = None  # the last checkpoint that this run wrote, or went on from
    watch: Watch = field(default_factory=Watch)
    tally: Tally = field(default_factory=Tally)
    writer: checkpoint.Writer = field(default_factory=checkpoint.Writer)

    def train(self) -> bool:
        """Train to the end of the schedule and save. Returns False where Ctrl-C ended it early (saved as well)."""
        log = RunLog(self.workspace, self.step)
        bar = tqdm(total=self.schedule.iters, initial=self.step, desc="training", unit="step", smoothing=0.05)
        self.renderer.train()
        with bar, log, _interruptible() as interrupted, self.writer:
            samples, since = 0, time.perf_counter()
            while self.step < self.schedule.iters and not interrupted():
                try:
                    out, terms = self.train_step()
                except OutOfMemory:
                    if self.step:
                        self.save()
                    raise
                samples = samples + out.samples["packed_info"][-1].sum()  # for whose value nobody waits here
                self.tally.add(terms["skipped"])
                bar.update()
                if self.step % LOG_INTERVAL == 0 or self.step == self.schedule.iters:
                    now = time.perf_counter()
                    values = {name: float(value) for name, value in terms.items()}
                    values["samples_per_second"], samples, since = float(samples) / (now - since), 0, now
                    log.write(self.step, values)
                    bar.set_postfix_str(_summary(values))
                    self._react(values)
                    bar.n = self.step  # a restored run has gone back
                if self.step % self.save_interval == 0 and self.step < self.schedule.iters:
                    self.save()
                    self._show()
            self.save()
        return self.step >= self.schedule.iters

    def _react(self, values: Mapping[str, float]) -> None:
        """Do what the watch says about the steps since the last look.

        Raises:
            Diverged: nothing helps.
        """
        (skipped, row), finite = self.tally.read(), self._is_finite()
        verdict = self.watch.judge(skipped, row, finite)
        what = f"{skipped:.0%} of the views without a finite gradient" if finite else BROKEN
        if verdict is not Verdict.FINE:
            self.tally.row = 0  # what is done about it gets its chance
        if verdict is Verdict.STEADY:
            steadied = [name for name, prior in self.guidance.items() if prior.steady()]
            also = f", and {' and '.join(steadied)} encodes in float32 from here on" if steadied else ""
            tqdm.write(f"step {self.step}: {what}: they change nothing{also}")
        if verdict is Verdict.RESTORE and self._restore():
            tqdm.write(f"{what}: back to step {self.step} with half the learning rate")
        elif verdict in (Verdict.RESTORE, Verdict.STOP):
            raise Diverged(f"stopped in step {self.step}: {what}; {ADVICE}")
        if line := self.watch.opacity(values):
            tqdm.write(f"step {self.step}: {line}")

    def _restore(self) -> bool:
        """Go back to the last checkpoint of this run with half the learning rate; False: there is none."""
        if self.good is None:
            return False
        rates = [group.get("initial_lr", group["lr"]) for group in self.optimizer.param_groups]
        self.writer.wait()
        self.load_state_dict(checkpoint.load(self.good))
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["initial_lr"] = rate / 2  # not of the rate that has decayed meanwhile
        return True

    def _show(self) -> None:
        """Pictures of the averaged weights; none where memory does not last for them."""
        if self.validate is None:
            return
        try:
            with self.ema.swap():
                self.validate(self.step)
        except (MemoryError, RuntimeError) as error:
            if not lacks_memory(error):
                raise
            torch.cuda.empty_cache()
            tqdm.write(f"step {self.step}: out of memory for its pictures, left out: a smaller --video_size takes less")
        self.renderer.train()

    def train_step(self) -> tuple[RenderOutput, dict[str, Tensor]]:
        """One step. Returns what was rendered, and the unweighted losses and metrics (0-d tensors).

        Where the memory of a guidance's GPU runs out, the step is taken again with one that takes less, and so are
        those that follow.

        Raises:
            OutOfMemory: there is nothing left to give up on that GPU.
        """
        reason = None
        while True:
            try:
                if reason is None or self._economise(reason):
                    return self._train_step()
            except (MemoryError, RuntimeError) as error:
                if not lacks_memory(error):
                    raise
                reason = error.with_traceback(None)  # which holds every tensor of the step
            else:
                guided = any(concerns(reason, prior.device, self.device) for prior in self.guidance.values())
                rendered = concerns(reason, self.device, self.device)
                raise OutOfMemory(
                    f"out of memory in step {self.step + 1}: the same command with "
                    f"{LESS_GUIDED if guided and not rendered else LESS_RENDERED} goes on from there"
                ) from reason

    def _economise(self, reason: Exception) -> bool:
        """Let one guidance on the GPU that ran out give something up, which may itself run out; False: none can."""
        self.optimizer.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()
        for name, prior in self.guidance.items():
            if concerns(reason, prior.device, self.device) and (given_up := prior.economise()):
                torch.cuda.empty_cache()  # of every GPU; nothing where there is none
                tqdm.write(f"out of memory in step {self.step + 1}: {name} goes on with less ({given_up})")
                return True
        return False

    def _train_step(self) -> tuple[RenderOutput, dict[str, Tensor]]:
        plan = self.schedule.plan(self.step)
        out, terms, metrics, learns = self.gradients(plan)
        stuck = out.opacity.new_zeros(())
        if learns:
            scale_lr(self.optimizer, plan.lr_factor)
            self.optimizer.step()
            stuck = self.optimizer.found_inf
        self.ema.update()
        self.step += 1
        metrics["skipped"] = torch.stack([metrics[f"{name}_skipped"] for name in self.guidance]).mean().maximum(stuck)
        return out, terms | {"opacity_mean": out.opacity.detach().mean()} | metrics

    def gradients(self, plan: Plan) -> tuple[RenderOutput, dict[str, Tensor], dict[str, Tensor], bool]:
        """Leave the gradients of a planned step in the parameters, without taking it.

        Where the occupancy is to be looked at in this step, it is: a second call looks again.
        Returns what was rendered, losses, metrics, and whether there is anything to learn: not where nothing was hit.
        """
        step, seed = plan.step, self.schedule.seed
        generator = step_generator(seed, step, stream="render")
        scene = self._scene(plan, generator)
        if self.device.type != "cpu":
            generator = step_generator(seed, step, self.device, stream="render")
        self.renderer.field.set_max_level(plan.max_level)
        self.renderer.update(step, generator=generator)
        drawn = generator.get_state()
        found = self._backward(scene, generator)
        while not self.renderer.had_room():
            del found  # its memory is needed
            generator.set_state(drawn)
            found = self._backward(scene, generator)
        return found

    def _scene(self, plan: Plan, generator: torch.Generator) -> Scene:
        """Drawn and computed on the host: a few numbers for each view, which would be a hundred launches on a GPU."""
        views, cameras = sample_views(
            plan.views, self.schedule.batch_size, plan.height, plan.width, generator=generator
        )
        shading, cameras = all_sent(plan.shading_for(cameras), self.device), all_sent(cameras, self.device)
        return Scene(plan, views, cameras, shading, plan.background_for(cameras))

    def _backward(
        self, scene: Scene, generator: torch.Generator
    ) -> tuple[RenderOutput, dict[str, Tensor], dict[str, Tensor], bool]:
        """Render and distil once; as `gradients`, but that there may have been too little room for the samples."""
        plan, views = scene.plan, scene.views
        out = self.renderer.render(
            scene.cameras,
            scene.shading,
            generator=generator,
            background=scene.background,
            need_normals=plan.need_normals,
            perturb_normals=plan.perturb_normals,
        )
        if self.grad_clip_rgb > 0 and out.rgb.requires_grad:
            out.rgb.register_hook(lambda grad: grad.clamp(-self.grad_clip_rgb, self.grad_clip_rgb))
        terms, metrics, lost = losses.evaluate(out, plan.weights), {}, {}
        for name, prior in self.guidance.items():
            result = prior(self._batch(out, views, plan))
            terms["guidance"] = terms.get("guidance", 0) + result.loss
            metrics |= {f"{name}_{key}": value for key, value in result.metrics.items()}
            lost[f"{name}_skipped"] = result.lost
            if result.pictures is not None:
                self._save_pictures(name, result, len(views.azimuth))
        total = sum(plan.weights[name] * term for name, term in terms.items())
        self.optimizer.zero_grad(set_to_none=True)
        if total.requires_grad:
            total.backward()
            losses.add_field_gradients(self.renderer.field, plan.weights, generator=generator)
        metrics |= {name: views.float().mean() for name, views in lost.items()}  # known after the backward pass
        return out, {name: term.detach() for name, term in terms.items()}, metrics, total.requires_grad

    def _batch(self, out: RenderOutput, views: Views, plan: Plan) -> GuidanceBatch:
        """What was rendered, channels first; in the latent phase normals and opacity are themselves the latents."""
        images, latents = out.rgb.permute(0, 3, 1, 2), None
        if plan.as_latent:
            images, latents = None, torch.cat([out.rgb, out.opacity], -1).permute(0, 3, 1, 2) * 2 - 1
        return GuidanceBatch(
            images=images,
            latents=latents,
            azimuth=views.azimuth,
            elevation=views.elevation,
            generator=step_generator(self.schedule.seed, plan.step, stream="guidance"),
            step=plan.step,
            t_range=plan.t_range,
            dreamtime=plan.dreamtime,
            guidance_scale=plan.guidance_scale,
            want_pictures=self.picture_interval > 0 and plan.step % self.picture_interval == 0,
        )

    def _save_pictures(self, name: str, result: GuidanceOutput, views: int) -> None:
        grid = picture_grid(result.pictures, views).permute(1, 2, 0)
        write_bytes(self.workspace / "guidance" / f"{name}_{self.step:06d}.png", png_bytes(to_uint8(grid)))

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": self.renderer.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.state_dict(),
            "step": self.step,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.renderer.load_state_dict(state["model"])
        resume(self.optimizer, state["optimizer"])
        self.ema.load_state_dict(state["ema"])
        self.step = state["step"]

    def save(self) -> None:
        """Write the checkpoint of this step while the run goes on, unless its weights are of no use."""
        if not self._is_finite():
            tqdm.write(f"step {self.step}: {BROKEN}: not saved")
            return
        meta = {"step": self.step, **self.meta}
        self.good = self.writer.save(self.workspace / "checkpoints", self.state_dict(), meta)

    def _is_finite(self) -> bool:
        """Whether all weights are; waits for the device."""
        return all(bool(p.isfinite().all()) for p in self.renderer.parameters())


def _summary(values: Mapping[str, float]) -> str:
    """The losses that train, and the rate, for the progress bar."""
    shown = {name: values[name] for name in (*losses.LOSSES, "guidance") if name in values}
    text = ", ".join(f"{name}={value:.3g}" for name, value in shown.items())
    return f"{text}, opacity={values['opacity_mean']:.2f}, {values['samples_per_second'] / 1e6:.2f}M samples/s"


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """A function that says whether Ctrl-C was pressed, so that the step at hand is finished; a second one raises."""
    pressed = False

    def note(number, frame):
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True
        tqdm.write("interrupted: saving after this step (again: at once, without)")

    try:
        before = signal.signal(signal.SIGINT, note)
    except ValueError:  # not the main thread: the caller handles signals
        yield lambda: False
        return
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, before)
