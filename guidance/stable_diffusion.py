"""Stable Diffusion 1 and 2, and every model in their folder layout, as a guidance (arXiv:2112.10752)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from guidance.folded import fold
from guidance.layout import STABLE_DIFFUSION
from guidance.lean import make_lean
from guidance.pipeline import PipelineGuidance
from guidance.weights import Located

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

    fp16 on Ampere and newer GPUs, too: with Toybox's prior, on 12 pictures at guidance 100, rounding to bf16 turns the
    gradient of score distillation by up to 9 degrees (t = 50 of 1000; 1.2 at 800), rounding to fp16 by 1 (0 at 800).
    What fp16 cannot hold, the autoencoder of version 2 at times, `steady` moves to fp32.
    """
    if device.type == "cuda":
        return "fp16"
    native = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return "mixed" if device.type == "cpu" and native() else "fp32"


class StableDiffusion(PipelineGuidance):
    """Score distillation from a Stable Diffusion pipeline in the diffusers layout.

    The decoder is kept only where it is used. All weights are frozen. Latents are the mean of AutoencoderKL's posterior
    (or the output of AutoencoderTiny) times the scaling factor: nothing is drawn while encoding, so noise comes from
    one place only.

    Args:
        sources: Repo ids, folders or files, tried in order (see `guidance.weights.resolve`), or one of them, or what
            `guidance.weights.locate` found.
        device: Where the models run.
        precision: auto, fp32, mixed, bf16 or fp16 (CUDA only); see `default_precision` and PRECISIONS.
        pictures: Keep the decoder, so that a batch may ask for pictures; with `space` "pixels" it is kept anyway.
        vram: GB that the guidance may take, which chooses its plan (`guidance.memory`); inf: it gives nothing up.
        batch_size: Pictures of a step, which the plan makes room for.
        prediction_type: What the UNet predicts, one of distill.PREDICTION_TYPES; None: what the configuration says.
        options: Of DiffusionGuidance.

    Raises:
        ValueError: No source can be loaded, or what it holds is not a Stable Diffusion 1 or 2 model.
    """

    family = STABLE_DIFFUSION
    special_tokens = 2  # the start and the end of the text

    def __init__(
        self,
        sources: str | list[str] | Located,
        *,
        device: torch.device | str = "cpu",
        precision: str = "auto",
        pictures: bool = False,
        vram: float = math.inf,
        batch_size: int = 1,
        prediction_type: str | None = None,
        **options: Any,
    ):
        unet_dtype, self.vae_dtype = _dtypes(precision, torch.device(device))
        alphas = self._open(sources, device, unet_dtype, prediction_type)

        import diffusers

        vae = self._load(getattr(diffusers, self.classes["vae"]), "vae", self.vae_dtype, alphas.device)
        self.vae = vae.to(memory_format=torch.channels_last)
        self._check()
        self.scaling_factor = self.vae.config.scaling_factor
        self.shift_factor = self.vae.config.get("shift_factor") or 0.0

        widths = self.vae.config.get("encoder_block_out_channels") or self.vae.config.block_out_channels
        factor = 2 ** (len(widths) - 1)
        sample = self.unet.config.sample_size
        height, width = (sample, sample) if isinstance(sample, int) else sample
        super().__init__(
            alphas,
            (self.unet.config.in_channels, height, width),
            (height * factor, width * factor),
            **options,
        )
        if not (pictures or self.space == "pixels"):
            self.vae.decoder = None
        if type(self.vae).__name__ == "AutoencoderKL":
            make_lean(self.vae.encoder)
        elif self.device.type == "cpu":  # a GPU would launch more kernels, and has pixels to spare
            for part in filter(None, (self.vae.encoder, self.vae.decoder)):
                part.layers = fold(part.layers)
        self._fit(vram, batch_size, math.prod(self.image_size))

    def encode(self, images: Tensor) -> Tensor:
        return self._planned(self._encode, images)

    def _encode(self, images: Tensor) -> Tensor:
        encoded = self.vae.encode((images * 2 - 1).to(self.vae_dtype))
        latents = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents
        return (latents.float() - self.shift_factor) * self.scaling_factor

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        if self.vae.decoder is None:
            raise ValueError("pictures were asked of a guidance that was made without them: pass --save_guidance")
        return self._planned(self._decode, latents)

    def _decode(self, latents: Tensor) -> Tensor:
        latents = latents / self.scaling_factor + self.shift_factor
        return (self.vae.decode(latents.to(self.vae_dtype)).sample.float() + 1).div(2).clamp(0, 1)

    def steady(self) -> bool:
        half = self.vae_dtype != torch.float32
        self.vae_dtype = torch.float32  # the autoencoder of version 2 overflows in fp16; its UNet does not
        self.vae.float()
        return half

    def _check(self) -> None:
        channels, latent_channels = self.unet.config.in_channels, self.vae.config.latent_channels
        if channels != latent_channels:
            raise ValueError(
                f"the UNet of {self.source} reads {channels} channels and its autoencoder makes {latent_channels}:"
                " inpainting, depth and upscaling models cannot guide"
            )


def _dtypes(precision: str, device: torch.device) -> tuple[torch.dtype, torch.dtype]:
    if precision == "auto":
        precision = default_precision(device)
    if precision not in PRECISIONS:
        raise ValueError(f"precision needs one of auto, {', '.join(PRECISIONS)}, got {precision!r}")
    if precision == "fp16" and device.type != "cuda":
        raise ValueError(f"fp16 guidance needs CUDA, and the device is {device}: use auto or fp32")
    return PRECISIONS[precision]
