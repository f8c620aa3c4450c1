"""The one step of score distillation that every diffusion model shares: noise, predict, combine, distil."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor

from guidance import distill
from guidance.prompts import VIEW_WORDS, PromptEmbeddings, ViewOptions, view_prompts
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
    """

    def __init__(
        self,
        alphas_cumprod: Tensor,
        latent_shape: tuple[int, int, int],
        image_size: tuple[int, int],
        views: ViewOptions | None = None,
        grad_clip: float = -1.0,
    ):
        self.alphas_cumprod = alphas_cumprod
        self.latent_shape = latent_shape
        self.image_size = image_size
        self.views = views or ViewOptions()
        self.grad_clip = grad_clip
        self.prompts: PromptEmbeddings | None = None

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

    @torch.no_grad()
    def prepare(self, text: str, negative: str = "") -> None:
        """Encodes the prompt for every view, and the negative prompt. Call it once, before the first step.

        Raises:
            ValueError: `text` is empty.
        """
        if not text.strip():
            raise ValueError("the prompt is empty: say what to make, as in --text 'a frog'")
        views = view_prompts(text.strip()) if self.views.words else [text.strip()] * len(VIEW_WORDS)
        embeddings = self.encode_text([*views, negative.strip()])
        self.prompts = PromptEmbeddings(views=embeddings[:-1], negative=embeddings[-1])

    def condition(self, batch: GuidanceBatch) -> Conditioning:
        """What the model is told about the views of a batch."""
        if self.prompts is None:
            raise RuntimeError("prepare(text) must be called before the first step")
        return self.prompts.condition(batch.azimuth, batch.elevation, self.views)

    def __call__(self, batch: GuidanceBatch) -> GuidanceOutput:
        """The distillation loss of a batch (DreamFusion, arXiv:2209.14988, algorithm in section 3.2).

        Differentiable in `batch.images` or `batch.latents`.

        Raises:
            ValueError: The latents have another number of channels than the model.
        """
        latents = self._latents(batch)
        with torch.no_grad():
            timesteps = self._draw_timesteps(batch, len(latents))
            noise = torch.randn(
                latents.shape, generator=batch.generator, device=batch.generator.device, dtype=torch.float32
            ).to(latents.device)
            alphas = self.alphas_cumprod[timesteps]
            noisy = distill.add_noise(latents, noise, alphas)
            noise_pred = self._guided_noise(noisy, timesteps, self.condition(batch), batch.guidance_scale)
            gradient = distill.sds_gradient(noise_pred, noise, alphas)
            if self.grad_clip > 0:
                gradient = gradient.clamp(-self.grad_clip, self.grad_clip)
            pictures = self._pictures(batch, latents, noisy, noise_pred, alphas) if batch.want_pictures else None
            metrics = {
                "timestep": timesteps.float().mean() / len(self.alphas_cumprod),
                "gradient_rms": gradient.square().mean().sqrt(),
                "not_finite": 1 - noise_pred.isfinite().float().mean(),
            }
        return GuidanceOutput(distill.distillation_loss(latents, gradient), metrics, pictures)

    def _latents(self, batch: GuidanceBatch) -> Tensor:
        """The batch in model space, float32, attached to the graph of its images or latents. [B, C, h, w]"""
        if batch.images is not None:
            return self.encode(resize(batch.images.float(), self.image_size))
        if batch.latents.shape[1] != self.latent_shape[0]:
            raise ValueError(
                f"the model denoises {self.latent_shape[0]} channels, but the latents have {batch.latents.shape[1]}:"
                " train on pictures from the start with --latent_iter_ratio 0"
            )
        return resize(batch.latents.float(), self.latent_shape[1:])

    def _draw_timesteps(self, batch: GuidanceBatch, count: int) -> Tensor:
        """One timestep per view, uniform in `t_range`, both ends included. [count] int64"""
        last = len(self.alphas_cumprod) - 1
        lo, hi = (min(round(share * (last + 1)), last) for share in batch.t_range)
        drawn = torch.randint(lo, hi + 1, (count,), generator=batch.generator, device=batch.generator.device)
        return drawn.to(self.alphas_cumprod.device)

    def _guided_noise(self, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning, scale: float) -> Tensor:
        """Predicts with and without the prompt in one pass, and combines. [B, C, h, w]"""
        batch = len(noisy)
        embeddings = [conditioning.uncond, conditioning.positive]
        if conditioning.negatives is not None:
            embeddings += conditioning.negatives.unbind(1)
        copies = len(embeddings)
        predictions = self.predict_noise(
            noisy.repeat(copies, 1, 1, 1), timesteps.repeat(copies), torch.cat(embeddings)
        ).view(copies, batch, *noisy.shape[1:])
        uncond, positive, negatives = predictions[0], predictions[1], predictions[2:].transpose(0, 1)
        if conditioning.negatives is None:
            return distill.classifier_free_guidance(uncond, positive, scale)
        return distill.perp_neg(uncond, positive, negatives, conditioning.weights, scale)

    def _pictures(
        self, batch: GuidanceBatch, latents: Tensor, noisy: Tensor, noise_pred: Tensor, alphas: Tensor
    ) -> Tensor:
        """What the model was shown, that with noise, and what the model makes of it in one step. [3 B, 3, H, W]"""
        shown = self.decode(latents) if batch.images is None else resize(batch.images.float(), self.image_size)
        estimate = distill.predicted_original(noise_pred, noisy, alphas)
        return torch.cat([shown, self.decode(noisy), self.decode(estimate)]).clamp(0, 1)


def picture_grid(pictures: Tensor, columns: int) -> Tensor:
    """Pictures side by side, `columns` in a row: a GuidanceOutput's with one column per view. -> [3, R H, columns W]

    Raises:
        ValueError: The number of pictures is not a multiple of `columns`.
    """
    if columns < 1 or len(pictures) % columns:
        raise ValueError(f"{len(pictures)} pictures do not fill rows of {columns}")
    rows = [torch.cat(list(row), dim=-1) for row in pictures.split(columns)]
    return torch.cat(rows, dim=-2)
