"""DeepFloyd IF's first stage as a guidance: diffusion of pictures of 64 x 64 pixels, prompted by T5."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from guidance.layout import DEEPFLOYD
from guidance.pipeline import PipelineGuidance
from guidance.weights import Located

ROOM_FOR_T5 = 11.0  # GB that its 4.7 billion weights take in half precision, and what they compute


class DeepFloyd(PipelineGuidance):
    """Score distillation from DeepFloyd IF in the diffusers layout. There is no autoencoder: it denoises the picture.

    Its text encoder is larger than the rest. It encodes the prompts once, on the GPU where there is room beside the
    UNet, else in ordinary memory (a minute), and is dropped.

    Args:
        sources: Repo ids or folders, tried in order, or one of them, or what `guidance.weights.locate` found.
        device: Where the UNet runs.
        vram: GB that the guidance may take; inf: it gives nothing up.
        batch_size: Pictures of a step, which take turns where memory does not last for all.
        pictures: Taken for the sake of build.py: they cost nothing here.
        prediction_type: What the UNet predicts, one of distill.PREDICTION_TYPES; None: what the configuration says.
        options: Of DiffusionGuidance.

    Raises:
        ValueError: No source can be loaded, or what it holds is not DeepFloyd IF.
    """

    family = DEEPFLOYD
    special_tokens = 1  # the end of the text
    masks_padding = True
    spare_tokens = 128  # its vocabulary is rounded up

    def __init__(
        self,
        sources: str | list[str] | Located,
        *,
        device: torch.device | str = "cpu",
        vram: float = math.inf,
        batch_size: int = 1,
        prediction_type: str | None = None,
        pictures: bool = False,
        **options: Any,
    ):
        half = torch.device(device).type == "cuda"
        alphas = self._open(sources, device, torch.float16 if half else torch.float32, prediction_type)
        side, channels = self.unet.config.sample_size, self.unet.config.in_channels
        super().__init__(alphas, (channels, side, side), (side, side), **options)
        self._fit(vram, batch_size)

    def encode(self, images: Tensor) -> Tensor:
        return images * 2 - 1

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        return latents.add(1).div(2).clamp(0, 1)

    def _text_place(self) -> tuple[torch.dtype, torch.device]:
        """bf16, whose range T5 needs, on the GPU if it has that and room; else in ordinary memory."""
        if self.device.type != "cuda":
            return torch.float32, self.device
        # What is free lacks the UNet already.
        free = min(torch.cuda.mem_get_info(self.device)[0] / 1e9, self.vram - self.gigabytes)
        if torch.cuda.get_device_capability(self.device)[0] >= 8 and free >= ROOM_FOR_T5:
            return torch.bfloat16, self.device
        return torch.bfloat16, torch.device("cpu")
