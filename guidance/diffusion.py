"""The one step of score distillation that every diffusion model shares: noise, predict, combine, distil."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from guidance import distill
from guidance.prompts import PromptEmbeddings, ViewOptions, on_the_left, view_prompts
from guidance.rules import RULES, Distilled, Prediction
from guidance.timesteps import dreamtime
from guidance.transfer import sent
from guidance.types import Conditioning, GuidanceBatch, GuidanceOutput


def resize(pictures: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear resize, antialiased where it shrinks; differentiable. [B, C, H, W] -> [B, C, *size]"""
    height, width = pictures.shape[-2:]
    if (height, width) == tuple(size):
        return pictures
    shrinks = height > size[0] or width > size[1]
    return F.interpolate(pictures, size, mode="bilinear", align_corners=False, antialias=shrinks)


class DiffusionGuidance(ABC):
    """A frozen diffusion model that says how a picture should change to look like the prompt.

    Use: `prepare(text, negative)` once, then call it with a GuidanceBatch every step. A subclass supplies
    `encode_text`, `encode`, `decode` and `predict_noise`; its weights must neither change nor hold gradients.

    Args:
        alphas_cumprod: alpha_bar of every training timestep, float32. [T]
        latent_shape: (C, h, w) of what the model denoises.
        image_size: (H, W) of the pictures that `encode` takes.
        views: How the prompt depends on the view.
        grad_clip: The distillation gradient is clamped to [-grad_clip, grad_clip]; 0 or less: never.
        rule: How predictions become a gradient: one of guidance.rules.RULES.
        rescale: Of the guided prediction, in [0, 1]; see `distill.rescaled`.
        space: "latents": the gradient goes through the encoder. "pixels": it is the distance to the decoded target, and
            the encoder needs no gradient; not for a batch of latents.
    """

    def __init__(
        self,
        alphas_cumprod: Tensor,
        latent_shape: tuple[int, int, int],
        image_size: tuple[int, int],
        views: ViewOptions | None = None,
        grad_clip: float = -1.0,
        rule: str = "sds",
        rescale: float = 0.0,
        space: str = "latents",
    ):
        self.alphas_cumprod, self.device = alphas_cumprod, alphas_cumprod.device
        self.alphas_on_host = alphas_cumprod.cpu()
        self.latent_shape = latent_shape
        self.image_size = image_size
        self.views = views or ViewOptions()
        self.grad_clip = grad_clip
        self.rule = RULES[rule]
        self.rescale = rescale
        self.space = space
        self.prompts: PromptEmbeddings | None = None
        self.has_negative = False  # whether there is a negative prompt

    @abstractmethod
    def encode_text(self, texts: list[str]) -> Tensor:
        """Embeddings of prompts. [N, L, D]"""

    @abstractmethod
    def encode(self, images: Tensor) -> Tensor:
        """Latents, float32, of pictures in [0, 1] of `image_size`; differentiable. [B, 3, H, W] -> [B, C, h, w]"""

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Pictures in [0, 1] of latents, without gradient. [B, C, h, w] -> [B, 3, H, W]"""

    @abstractmethod
    def predict_noise(self, noisy: Tensor, timesteps: Tensor, embeddings: Tensor) -> Tensor:
        """The noise in `noisy`, float32, without gradient.

        noisy [N, C, h, w], timesteps [N] int64, embeddings [N, L, D] -> [N, C, h, w]
        """

    def steady(self) -> bool:
        """Compute in float32 what overflows in half precision, from now on. False: it did already."""
        return False

    def economise(self) -> str | None:
        """Take less memory from now on, in place. Returns what was given up; None: there is nothing more to give up."""
        return None

    @torch.no_grad()
    def prepare(self, text: str, negative: str = "") -> None:
        """Encodes the prompt for every view, and the negative prompt. Call it once, before the first step.

        Raises:
            ValueError: `text` is empty.
        """
        if not text.strip():
            raise ValueError("the prompt is empty: say what to make, as in --text 'a frog'")
        self.has_negative = bool(negative.strip())
        views = view_prompts(text.strip(), sided=self.views.sided)
        if not self.views.words:
            views = [text.strip()] * len(views)
        embeddings = self.encode_text([*views, negative.strip(), ""])
        self.prompts = PromptEmbeddings(views=embeddings[:-2], negative=embeddings[-2], empty=embeddings[-1])

    def condition(self, batch: GuidanceBatch) -> Conditioning:
        """What the model is told about the views of a batch."""
        if self.prompts is None:
            raise RuntimeError("prepare(text) must be called before the first step")
        return self.prompts.condition(batch.azimuth, batch.elevation, self.views)

    def __call__(self, batch: GuidanceBatch) -> GuidanceOutput:
        """The distillation loss of a batch (DreamFusion, arXiv:2209.14988, algorithm in section 3.2).

        Differentiable in `batch.images` or `batch.latents`, on whichever device they are; the loss is there, too.

        Raises:
            ValueError: The latents have another number of channels than the model.
        """
        home = (batch.latents if batch.images is None else batch.images).device
        lost = torch.zeros(len(batch.azimuth), dtype=torch.bool, device=home)
        left = on_the_left(batch.azimuth) if self.views.mirrored else None
        batch = batch if left is None else _from_the_left(batch, left)
        timesteps, noise = self._draw(batch)  # before there is work to wait for
        shown = self._shown(batch, lost)
        in_pixels = self.space == "pixels" and shown is not None
        with torch.set_grad_enabled(torch.is_grad_enabled() and not in_pixels):
            latents = self._latents(batch) if shown is None else self.encode(shown)
        with torch.no_grad():
            told = Told(self, self.condition(batch), batch.guidance_scale)
            found = self.rule(told, latents.detach(), timesteps, noise)
            gradient = found.gradient
            if self.grad_clip > 0:
                gradient = gradient.clamp(-self.grad_clip, self.grad_clip)
            astray = _lost(gradient)
            lost |= astray.to(home)
            gradient = _without(gradient, astray)
            pictures = self._pictures(shown, latents, found, timesteps) if batch.want_pictures else None
            pictures = pictures if left is None else _turned(pictures, left)
            metrics = {
                "timestep": timesteps.float().mean() / len(self.alphas_cumprod),
                "gradient_rms": gradient.square().mean().sqrt(),
            }
        latents = _without(latents, astray)  # so that the loss is finite, too
        if in_pixels:
            target, weights = distill.target_of(latents, gradient, self.alphas_cumprod[timesteps])
            loss = distill.pixel_loss(_without(shown, astray), self.decode(target), weights.masked_fill(astray, 0))
        else:
            loss = distill.distillation_loss(latents, gradient)
        return GuidanceOutput(loss.to(home), lost, metrics, pictures)

    def _shown(self, batch: GuidanceBatch, lost: Tensor) -> Tensor | None:
        """The pictures in the size of the model, float32, attached to their graph; None: the batch is latents.

        Views whose gradient arrives back here and is not finite get 0, and are marked in `lost` [B].
        """
        if batch.images is None:
            return None
        images = batch.images.float()
        if images.requires_grad:
            images = images.clone()  # so that the hook is on a tensor of its own
            images.register_hook(lambda gradient: _without(gradient, lost.logical_or_(_lost(gradient))))
        return resize(images.to(self.device), self.image_size)

    def _latents(self, batch: GuidanceBatch) -> Tensor:
        """The latents of a batch in the size of the model, float32, attached to their graph. [B, C, h, w]"""
        if batch.latents.shape[1] != self.latent_shape[0]:
            raise ValueError(
                f"the model denoises {self.latent_shape[0]} channels, but the latents have {batch.latents.shape[1]}:"
                " train on pictures from the start with --latent_iter_ratio 0"
            )
        return resize(batch.latents.float().to(self.device), self.latent_shape[1:])

    def _draw(self, batch: GuidanceBatch) -> tuple[Tensor, Tensor]:
        """All that is random in a step: timesteps [B] and noise [B, C, h, w]."""
        timesteps, source = self._draw_timesteps(batch), batch.generator
        noise = torch.randn(
            (len(timesteps), *self.latent_shape), generator=source, device=source.device, dtype=torch.float32
        )
        return timesteps, sent(noise, self.device)

    def _draw_timesteps(self, batch: GuidanceBatch) -> Tensor:
        """One timestep per view, uniform in `t_range`, both ends included, or DreamTime's for all. [B] int64"""
        count = len(batch.azimuth)
        if batch.dreamtime is not None:
            t = dreamtime(self.alphas_on_host, batch.t_range, batch.dreamtime)
            return torch.full((count,), t, device=self.device)
        last = len(self.alphas_cumprod) - 1
        lo, hi = (min(round(share * (last + 1)), last) for share in batch.t_range)
        drawn = torch.randint(lo, hi + 1, (count,), generator=batch.generator, device=batch.generator.device)
        return sent(drawn, self.device)

    def _pictures(self, shown: Tensor | None, latents: Tensor, found: Distilled, timesteps: Tensor) -> Tensor:
        """What the model was shown, that with noise, and what the model makes of it in one step. [3 B, 3, H, W]"""
        shown = self.decode(latents) if shown is None else shown
        estimate = distill.predicted_original(found.noise_pred, found.noisy, self.alphas_cumprod[timesteps])
        return torch.cat([shown, self.decode(found.noisy), self.decode(estimate)]).clamp(0, 1)


def _from_the_left(batch: GuidanceBatch, left: Tensor) -> GuidanceBatch:
    """The batch with its other views as mirror images, which show a left side of a symmetric object. left: [B] bool"""
    azimuth = torch.where(left, batch.azimuth, -batch.azimuth)
    return replace(batch, azimuth=azimuth, images=_turned(batch.images, left), latents=_turned(batch.latents, left))


def _turned(pictures: Tensor | None, left: Tensor) -> Tensor | None:
    """Mirror images of all but the views from the left, for every kind of picture. [R B, C, H, W], [B] bool"""
    if pictures is None:
        return None
    kept = sent(left, pictures.device).repeat(len(pictures) // len(left))[:, None, None, None]
    return torch.where(kept, pictures, pictures.flip(-1))


def _lost(gradient: Tensor) -> Tensor:
    """Which views have a gradient that is not finite. [B, C, H, W] -> [B] bool"""
    return (gradient - gradient).flatten(1).any(1)  # NaN where it was not finite, in fewer launches than isfinite()


def _without(pictures: Tensor, lost: Tensor) -> Tensor:
    """0 for some views, so that nothing waits for the device to say which. [B, C, H, W], [B] bool"""
    return pictures.masked_fill(lost[:, None, None, None], 0)


@dataclass(frozen=True)
class Told:
    """A guidance and what it is told about the views of a batch: what the rules of guidance/rules.py ask."""

    guidance: DiffusionGuidance
    conditioning: Conditioning
    scale: float

    @property
    def alphas_cumprod(self) -> Tensor:
        return self.guidance.alphas_cumprod

    @property
    def has_negative(self) -> bool:
        return self.guidance.has_negative

    def guided(self, noisy: Tensor, timesteps: Tensor) -> Prediction:
        """With and without the prompt in one pass, and combined."""
        given, batch = self.conditioning, len(noisy)
        embeddings = [given.uncond, given.positive, *([] if given.negatives is None else given.negatives.unbind(1))]
        copies = len(embeddings)
        predictions = self.guidance.predict_noise(
            noisy.repeat(copies, 1, 1, 1), timesteps.repeat(copies), torch.cat(embeddings)
        ).view(copies, batch, *noisy.shape[1:])
        uncond, positive, negatives = predictions[0], predictions[1], predictions[2:].transpose(0, 1)
        if given.negatives is None:
            guided = distill.classifier_free_guidance(uncond, positive, self.scale)
        else:
            guided = distill.perp_neg(uncond, positive, negatives, given.weights, self.scale)
        return Prediction(distill.rescaled(guided, positive, self.guidance.rescale), positive, uncond)

    def empty(self, noisy: Tensor, timesteps: Tensor) -> Tensor:
        embeddings = self.guidance.prompts.empty.expand(len(noisy), -1, -1)
        return self.guidance.predict_noise(noisy, timesteps, embeddings)


def picture_grid(pictures: Tensor, columns: int) -> Tensor:
    """Pictures side by side, `columns` in a row: a GuidanceOutput's with one column per view. -> [3, R H, columns W]

    Raises:
        ValueError: The number of pictures is not a multiple of `columns`.
    """
    if columns < 1 or len(pictures) % columns:
        raise ValueError(f"{len(pictures)} pictures do not fill rows of {columns}")
    rows = [torch.cat(list(row), dim=-1) for row in pictures.split(columns)]
    return torch.cat(rows, dim=-2)
