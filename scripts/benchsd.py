"""What scripts/bench.py sd measures: a step of Stable Diffusion's guidance and its parts, against plain diffusers.

Its memory can be counted where there is no GPU: on fake tensors, which have a size and no contents.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from unittest import mock

import torch
import torch.nn.functional as F
from benchcases import Case
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from guidance import distill, lean
from guidance.memory import IN_TURN, PLANS
from guidance.stable_diffusion import StableDiffusion
from guidance.types import GuidanceBatch
from live_memory import LiveMemory

SCALE, TIMESTEP = 100.0, 500
MANY = 4  # pictures of a step with --batch_size


def sd_cases(device: torch.device, source: str = "random:sd21", precision: str = "auto") -> Iterator[Case]:
    """One picture of 64 x 64 as the renderer makes it, with each plan of guidance/memory.py; several where it differs.

    Args:
        source: Of `guidance.weights.locate`; random weights take the time and the memory of true ones.
        precision: Of StableDiffusion.
    """
    guidance = StableDiffusion(source, device=device, precision=precision, batch_size=MANY)
    guidance.prepare("a frog")
    plain = Plain(guidance)
    picture, many = (torch.rand(count, 3, 64, 64, device=device).requires_grad_() for count in (1, MANY))
    full = torch.rand(1, 3, *guidance.image_size, device=device).requires_grad_()
    noisy = torch.randn(2, *guidance.latent_shape, device=device)
    t, words = torch.full((2,), TIMESTEP, device=device), guidance.prompts.views[:2]
    side = f"{guidance.image_size[0]}^2"
    yield Case(
        "UNet", "two prompts", lambda: guidance.predict_noise(noisy, t, words), peer=lambda: plain.unet(noisy, t)
    )
    if device.type == "cuda":
        eager = lambda: guidance.unet_pass.function(noisy.to(guidance.unet_dtype), t, words.to(guidance.unet_dtype))  # noqa: E731
        yield Case(
            "UNet, eager", "two prompts", lambda: guidance.predict_noise(noisy, t, words), peer=torch.no_grad()(eager)
        )
    yield Case("encoder", side, lambda: guidance.encode(full), (full,), lambda: plain.encode(full))
    for plan in PLANS:
        while guidance.plan is not plan:
            guidance.economise()
        if plan is not IN_TURN:  # one picture has no turns to take
            yield Case("guidance", plan.name, lambda: step(guidance, picture), peer=lambda: plain.step(picture))
        if not plan.int8:
            call, peer = lambda: step(guidance, many), lambda: plain.step(many)
            yield Case(f"guidance, {MANY} pictures", plan.name, call, peer=peer)


@dataclass(frozen=True)
class Held:
    """GB of a case: of what it reads, which is weights above all, and at most of what it makes meanwhile."""

    op: str
    size: str
    ours_read: float
    ours_made: float
    reference_read: float
    reference_made: float


def held(source: str = "random:sd21") -> Iterator[Held]:
    """The memory of every case in half precision. Computed, not measured: nothing runs, but on what would run.

    As on a GPU, where the lean encoder has other layouts to make.
    """
    with mock.patch.object(lean, "_takes_channels_last", lambda x: False):
        yield from _held(source)


def _held(source: str) -> Iterator[Held]:
    for case in sd_cases(torch.device("cpu"), source, "bf16"):
        figures = []
        for call in (case.call, case.peer):
            with FakeTensorMode(allow_non_fake_inputs=True), LiveMemory() as live:
                result = call()
                if case.inputs:
                    torch.autograd.grad(result, case.inputs, torch.ones_like(result))
            del result
            figures += [live.read / 1e9, live.peak / 1e9]
        yield Held(case.op, case.size, *figures)


@torch.enable_grad()
def step(guidance: StableDiffusion, picture: Tensor) -> Tensor:
    """The gradient at the picture, as a run takes it."""
    zero = torch.zeros(len(picture), device=picture.device)
    generator = torch.Generator().manual_seed(0)
    batch = GuidanceBatch(images=picture, azimuth=zero, elevation=zero, generator=generator, guidance_scale=SCALE)
    return torch.autograd.grad(guidance(batch).loss, picture)[0]


class Plain:
    """The same step as scripts around diffusers write it: the models as they load, under autocast on a GPU."""

    def __init__(self, guidance: StableDiffusion):
        import diffusers

        self.guidance, dtype = guidance, guidance.unet_dtype
        vae = guidance.parts.load(getattr(diffusers, guidance.classes["vae"]), "vae", dtype)
        self.vae = vae.to(guidance.device).eval().requires_grad_(False)
        self.model = guidance.parts.load(diffusers.UNet2DConditionModel, "unet", dtype).to(guidance.device)
        self.model.eval().requires_grad_(False)
        self.size = guidance.image_size  # whole, whatever the guidance gives up later
        self.words = guidance.prompts.views[:2].to(dtype)

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.guidance.device.type, torch.float16, enabled=self.guidance.device.type == "cuda")

    @torch.no_grad()
    def unet(self, noisy: Tensor, t: Tensor) -> Tensor:
        with self.autocast():
            words = self.words.repeat_interleave(len(noisy) // 2, 0)
            return self.model(noisy.to(words.dtype), t, words).sample

    def encode(self, pictures: Tensor) -> Tensor:
        with self.autocast():
            encoded = self.vae.encode((pictures * 2 - 1).to(self.words.dtype))
        latents = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents
        return latents.float() * self.guidance.scaling_factor

    @torch.enable_grad()
    def step(self, picture: Tensor) -> Tensor:
        full = F.interpolate(picture, self.size, mode="bilinear", align_corners=False)
        latents = self.encode(full)
        with torch.no_grad():
            t = torch.randint(20, 980, (len(picture),), device=picture.device)
            noise = torch.randn_like(latents)
            noisy = distill.add_noise(latents, noise, self.guidance.alphas_cumprod[t])
            uncond, text = self.unet(noisy.repeat(2, 1, 1, 1), t.repeat(2)).float().chunk(2)
            w = (1 - self.guidance.alphas_cumprod[t])[:, None, None, None]
            gradient = torch.nan_to_num(w * (uncond + SCALE * (text - uncond) - noise))
        target = (latents - gradient).detach()
        return torch.autograd.grad(0.5 * F.mse_loss(latents, target, reduction="sum"), picture)[0]
