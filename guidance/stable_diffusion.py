"""Stable Diffusion 1 and 2, and every model in their folder layout, as a guidance (arXiv:2112.10752)."""

from __future__ import annotations

import logging
import math
import textwrap
from typing import Any

import torch
from torch import Tensor

from guidance import distill
from guidance.diffusion import DiffusionGuidance
from guidance.lean import make_lean
from guidance.memory import PLANS, MemoryPlan, choose, next_smaller, to_int8
from guidance.parts import open_parts
from guidance.prompts import view_prompts
from guidance.weights import Located, locate

log = logging.getLogger(__name__)
PRECISIONS = {  # dtype of the UNet, dtype of the autoencoder
    "fp32": (torch.float32, torch.float32),
    "mixed": (torch.float32, torch.bfloat16),
    "bf16": (torch.bfloat16, torch.bfloat16),
    "fp16": (torch.float16, torch.float16),
}


def default_precision(device: torch.device) -> str:
    """fp16 on CUDA; mixed on a CPU that multiplies bf16 natively (AVX-512 BF16 or AMX); fp32 elsewhere.

    On two Zen 5 cores, with random weights: an encoder of 0.4 M parameters on 2 pictures of 128x128 with its gradient
    takes 26 ms in fp32 and 15 ms in bf16, which changes the gradient by a tenth (two draws of noise: by more than its
    length). A UNet of 8.8 M parameters on 4 latents of 16x16 only goes from 25 to 21 ms, and its predictions are
    off by 1.5%, which guidance multiplies by its scale. So only the autoencoder runs in bf16.
    """
    if device.type == "cuda":
        return "fp16"
    native = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return "mixed" if device.type == "cpu" and native() else "fp32"


class StableDiffusion(DiffusionGuidance):
    """Score distillation from a Stable Diffusion pipeline in the diffusers layout.

    The text encoder is loaded by `prepare` and dropped again; the decoder is kept only for pictures. All weights are
    frozen. Latents are the mean of AutoencoderKL's posterior (or the output of AutoencoderTiny) times the scaling
    factor: nothing is drawn while encoding, so noise comes from one place only.

    Args:
        sources: Repo ids, folders or files, tried in order (see `guidance.weights.resolve`), or one of them, or what
            `guidance.weights.locate` found.
        device: Where the models run.
        precision: auto, fp32, mixed, bf16 or fp16 (CUDA only); see `default_precision` and PRECISIONS.
        pictures: Keep the decoder, so that a batch may ask for pictures.
        vram: GB that the guidance may take, which chooses its plan (`guidance.memory`); inf: it gives nothing up.
        options: Of DiffusionGuidance.

    Attributes:
        source: The source that was loaded.
        plan: What it gave up for memory.

    Raises:
        ValueError: No source can be loaded, or what it holds is not a Stable Diffusion 1 or 2 model.
    """

    def __init__(
        self,
        sources: str | list[str] | Located,
        *,
        device: torch.device | str = "cpu",
        precision: str = "auto",
        pictures: bool = False,
        vram: float = math.inf,
        **options: Any,
    ):
        self.device = torch.device(device)
        self.unet_dtype, self.vae_dtype = _dtypes(precision, self.device)
        if not isinstance(sources, Located):
            sources = locate([sources] if isinstance(sources, str) else sources, half=self.unet_dtype == torch.float16)
        self.source, self.parts = sources.source, open_parts(sources)

        import diffusers

        vae_class = getattr(diffusers, self.parts.autoencoder_class())
        self.unet = self.parts.load(diffusers.UNet2DConditionModel, "unet", self.unet_dtype)
        self.unet.eval().requires_grad_(False)  # still in ordinary memory, where there is room to make it smaller
        self.vae = self._load(vae_class, "vae").to(memory_format=torch.channels_last)
        scheduler = self.parts.scheduler()
        self.prediction_type = scheduler.config.prediction_type
        self._check()
        self.scaling_factor = self.vae.config.scaling_factor
        self.shift_factor = self.vae.config.get("shift_factor") or 0.0

        widths = self.vae.config.get("encoder_block_out_channels") or self.vae.config.block_out_channels
        factor = 2 ** (len(widths) - 1)
        sample = self.unet.config.sample_size
        height, width = (sample, sample) if isinstance(sample, int) else sample
        super().__init__(
            scheduler.alphas_cumprod.float().to(self.device),
            (self.unet.config.in_channels, height, width),
            (height * factor, width * factor),
            **options,
        )
        self.pictures = pictures
        if not pictures:
            self.vae.decoder = None
        if type(self.vae).__name__ == "AutoencoderKL":
            make_lean(self.vae.encoder)
        self.plan = PLANS[0]
        self._follow(choose(vram, sum(p.numel() for p in self.unet.parameters()), math.prod(self.image_size)))
        self.unet.to(self.device)

    def prepare(self, text: str, negative: str = "") -> None:
        """Encodes the prompts; what is too long for the text encoder is cut (with a warning), the view words never.

        Raises:
            ValueError: `text` is empty, or the tokenizer does not belong to the text encoder.
        """
        from transformers import CLIPTextModel

        self.tokenizer = self.parts.tokenizer()
        self.text_encoder = self._load(CLIPTextModel, "text_encoder")
        try:
            self._check_tokenizer()
            suffix = max(view_prompts("", sided=self.views.sided), key=lambda words: len(self._token_ids(words)))
            super().prepare(self._shortened(text, suffix), self._shortened(negative))
        finally:
            del self.text_encoder, self.tokenizer

    def encode_text(self, texts: list[str]) -> Tensor:
        """Last hidden states of the text encoder; only while `prepare` runs. [N, L, D]"""
        tokens = self.tokenizer(
            texts, padding="max_length", max_length=self._max_tokens(), truncation=True, return_tensors="pt"
        )
        return self.text_encoder(tokens.input_ids.to(self.device))[0].clone()

    def encode(self, images: Tensor) -> Tensor:
        encoded = self.vae.encode((images * 2 - 1).to(self.vae_dtype))
        latents = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents
        return (latents.float() - self.shift_factor) * self.scaling_factor

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        if not self.pictures:
            raise ValueError("pictures were asked of a guidance that was made without them: pass --save_guidance")
        latents = latents / self.scaling_factor + self.shift_factor
        return (self.vae.decode(latents.to(self.vae_dtype)).sample.float() + 1).div(2).clamp(0, 1)

    @torch.no_grad()
    def predict_noise(self, noisy: Tensor, timesteps: Tensor, embeddings: Tensor) -> Tensor:
        output = self.unet(noisy.to(self.unet_dtype), timesteps, embeddings.to(self.unet_dtype)).sample
        return distill.predicted_noise(output.float(), noisy, self.alphas_cumprod[timesteps], self.prediction_type)

    def _load(self, model_class: type, part: str) -> torch.nn.Module:
        """One part of the pipeline, frozen."""
        dtype = self.vae_dtype if part == "vae" else self.unet_dtype
        return self.parts.load(model_class, part, dtype).to(self.device).eval().requires_grad_(False)

    def steady(self) -> bool:
        half = self.vae_dtype != torch.float32
        self.vae_dtype = torch.float32  # the autoencoder of version 2 overflows in fp16; its UNet does not
        self.vae.float()
        return half

    def economise(self) -> str | None:
        plan = next_smaller(self.plan)
        if plan is None:
            return None
        self._follow(plan)
        return plan.name

    def _follow(self, plan: MemoryPlan) -> None:
        """Give up what the plan gives up and the one before did not."""
        if plan.int8 and not self.plan.int8:
            to_int8(self.unet)
        ratio = plan.scale / self.plan.scale
        self.image_size = tuple(round(side * ratio) for side in self.image_size)
        self.latent_shape = (self.latent_shape[0], *(round(side * ratio) for side in self.latent_shape[1:]))
        self.plan = plan

    def _check(self) -> None:
        channels, latent_channels = self.unet.config.in_channels, self.vae.config.latent_channels
        if channels != latent_channels:
            raise ValueError(
                f"the UNet of {self.source} reads {channels} channels and its autoencoder makes {latent_channels}:"
                " inpainting, depth and upscaling models cannot guide"
            )
        if self.prediction_type not in distill.PREDICTION_TYPES:
            raise ValueError(f"{self.source} predicts {self.prediction_type}, not {distill.PREDICTION_TYPES}")

    def _check_tokenizer(self) -> None:
        # With its files missing or broken, from_pretrained returns a stub of two tokens and raises nothing.
        tokens, expected = len(self.tokenizer), self.text_encoder.config.vocab_size
        if tokens != expected:
            raise ValueError(
                f"the tokenizer of {self.source} has {tokens} tokens and its text encoder {expected}:"
                " files are missing or broken in its folder tokenizer"
            )

    def _max_tokens(self) -> int:
        return min(self.tokenizer.model_max_length, self.text_encoder.config.max_position_embeddings)

    def _token_ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids

    def _shortened(self, text: str, suffix: str = "") -> str:
        """`text` without the last words that would not fit before `suffix`."""
        room = self._max_tokens() - 2 - len(self._token_ids(suffix))  # two: the start and the end of the text
        words = text.split()
        kept = len(words)
        while kept > 1 and len(self._token_ids(" ".join(words[:kept]))) > room:
            kept -= 1
        if kept < len(words):
            log.warning(
                "the prompt has %d tokens and the text encoder reads %d: left out '%s'",
                len(self._token_ids(text)),
                room,
                textwrap.shorten(" ".join(words[kept:]), 100),
            )
        return " ".join(words[:kept])


def _dtypes(precision: str, device: torch.device) -> tuple[torch.dtype, torch.dtype]:
    if precision == "auto":
        precision = default_precision(device)
    if precision not in PRECISIONS:
        raise ValueError(f"precision needs one of auto, {', '.join(PRECISIONS)}, got {precision!r}")
    if precision == "fp16" and device.type != "cuda":
        raise ValueError(f"fp16 guidance needs CUDA, and the device is {device}: use auto or fp32")
    return PRECISIONS[precision]
