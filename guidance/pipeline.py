"""What the guidances made of a diffusers pipeline share: its parts, the prompt, the UNet, and what memory they take."""

from __future__ import annotations

import logging
import math
import textwrap
from collections.abc import Callable

import torch
from torch import Tensor

from guidance import distill
from guidance.diffusion import DiffusionGuidance
from guidance.graphs import CudaGraphs, Recorded, TorchScript
from guidance.layout import Family
from guidance.memory import AT_ONCE, PLANS, Load, MemoryPlan, choose, in_turn, next_smaller, to_int8
from guidance.parts import open_parts
from guidance.prompts import view_prompts
from guidance.weights import Located, locate

log = logging.getLogger(__name__)
LONGEST = 77  # tokens of a prompt; text encoders without a limit of their own were used with this one


class PipelineGuidance(DiffusionGuidance):
    """A frozen UNet and the text encoder it was trained with.

    The text encoder is loaded by `prepare` and dropped again. A subclass says what it is made of and supplies `encode`
    and `decode`; its __init__ calls `_open`, DiffusionGuidance's and `_fit`, in this order.

    Attributes:
        source: The source that was loaded.
        plan: What it gave up for memory.
        load: What its plan has to carry.
        unet_pass: The UNet, started as one recording until it is told to `stop`.
        vram: GB that it was made to fit.
    """

    family: Family
    special_tokens: int  # that the tokenizer adds to a sentence
    masks_padding = False  # whether the text encoder is told where the sentence ends
    spare_tokens = 0  # that a text encoder may know more than its tokenizer

    def _open(
        self,
        sources: str | list[str] | Located,
        device: torch.device | str,
        dtype: torch.dtype,
        prediction_type: str | None,
    ) -> Tensor:
        """Load the UNet in `dtype`, not yet on the device. Returns alpha_bar of every training timestep.

        prediction_type: Of distill.PREDICTION_TYPES; None: what the configuration says.
        """
        self.unet_dtype = dtype
        if not isinstance(sources, Located):
            sources = [sources] if isinstance(sources, str) else sources
            sources = locate(sources, half=dtype == torch.float16, family=self.family)
        self.source, self.parts = sources.source, open_parts(sources)
        self.classes = self.parts.classes()

        from diffusers import UNet2DConditionModel

        self.unet = self.parts.load(UNet2DConditionModel, "unet", dtype)
        self.unet_pass = Recorded(self._unet_pass, CudaGraphs if torch.device(device).type == "cuda" else TorchScript)
        self.unet.eval().requires_grad_(False)  # still in ordinary memory, where there is room to make it smaller
        scheduler = self.parts.scheduler()
        self.prediction_type = prediction_type or scheduler.config.prediction_type
        if sources.single and prediction_type is None:  # epsilon and v have the same weights by name and shape
            log.warning(
                "%s is taken to predict %s, as the configuration of its version says; if it was made for another"
                " (files called v or 768 are), type --prediction_type v_prediction",
                self.source,
                self.prediction_type,
            )
        if self.prediction_type not in distill.PREDICTION_TYPES:
            raise ValueError(f"{self.source} predicts {self.prediction_type}, not {distill.PREDICTION_TYPES}")
        return scheduler.alphas_cumprod.float().to(device)

    def _fit(self, vram: float, pictures: int, pixels: int = 0) -> None:
        """Give up what `vram` GB ask for, and move the UNet to the device.

        pictures: Of a step; pixels: of each as the autoencoder reads it, 0 without one.
        """
        self.plan, self.vram = PLANS[0], vram
        parameters, prompts = sum(p.numel() for p in self.unet.parameters()), 4 if self.views.perpneg else 2
        self.load = Load(parameters, pixels, pictures, prompts)
        self._follow(choose(vram, self.load))
        self.unet.to(self.device, memory_format=torch.channels_last)

    @property
    def gigabytes(self) -> float:
        """What a step takes by the plan."""
        return self.plan.gigabytes(self.load)

    def describe(self) -> str:
        """The source, and the plan where memory is limited."""
        if math.isinf(self.vram):
            return self.source
        height, width = self.image_size
        plan = f"{self.plan.name}, {self.gigabytes:.1f} of {self.vram:.1f} GB"
        return f"{self.source}: {plan}, shown {height} x {width}"

    def _load(self, model_class: type, part: str, dtype: torch.dtype, device: torch.device) -> torch.nn.Module:
        """A part of the pipeline, frozen."""
        return self.parts.load(model_class, part, dtype).to(device).eval().requires_grad_(False)

    def _text_place(self) -> tuple[torch.dtype, torch.device]:
        """Where and how the prompts are encoded."""
        return self.unet_dtype, self.device

    def prepare(self, text: str, negative: str = "") -> None:
        """Encodes the prompts; what is too long for the text encoder is cut (with a warning), the view words never.

        Raises:
            ValueError: `text` is empty, or the tokenizer does not belong to the text encoder.
        """
        import transformers

        self.tokenizer = self.parts.tokenizer()
        model_class = getattr(transformers, self.classes["text_encoder"])
        self.text_encoder = self._load(model_class, "text_encoder", *self._text_place())
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
        tokens = tokens.to(self.text_encoder.device)
        masked = {"attention_mask": tokens.attention_mask} if self.masks_padding else {}
        return self.text_encoder(tokens.input_ids, **masked)[0].to(self.device).clone()

    @torch.no_grad()
    def predict_noise(self, noisy: Tensor, timesteps: Tensor, embeddings: Tensor) -> Tensor:
        return self._planned(self._predict_noise, noisy, timesteps, embeddings, at_once=AT_ONCE)

    def _predict_noise(self, noisy: Tensor, timesteps: Tensor, embeddings: Tensor) -> Tensor:
        output = self.unet_pass(noisy.to(self.unet_dtype), timesteps, embeddings.to(self.unet_dtype))
        output = output[:, : noisy.shape[1]].float()  # the others, where there are some, are its variance
        return distill.predicted_noise(output, noisy, self.alphas_cumprod[timesteps], self.prediction_type)

    def _unet_pass(self, noisy: Tensor, timesteps: Tensor, embeddings: Tensor) -> Tensor:
        return self.unet(noisy, timesteps, embeddings).sample

    def _planned(self, function: Callable[..., Tensor], *tensors: Tensor, at_once: int = 1) -> Tensor:
        """function(*tensors), in turn where the plan says so."""
        return in_turn(function, *tensors, at_once=at_once) if self.plan.in_turn else function(*tensors)

    def economise(self) -> str | None:
        if saved := self.unet_pass.save_memory():
            return saved
        plan = next_smaller(self.plan, self.load)
        if plan is None:
            return None
        self._follow(plan)
        return plan.name

    def _follow(self, plan: MemoryPlan) -> None:
        """Give up what the plan gives up and the one before did not."""
        ratio = plan.scale / self.plan.scale
        factor = self.image_size[0] // self.latent_shape[1]
        sides = [round(side * ratio) for side in self.latent_shape[1:]]
        self.latent_shape, self.image_size = (self.latent_shape[0], *sides), tuple(factor * side for side in sides)
        self.unet_pass.forget()  # of other shapes, and of weights where they were
        self.plan = plan  # before what may run out of memory itself: the next plan goes on with it
        if plan.int8:
            to_int8(self.unet)
            if self.device.type == "cpu":
                self.unet_pass.stop()  # TorchScript would keep what the integers stand for

    def _check_tokenizer(self) -> None:
        # With its files missing or broken, from_pretrained returns a stub of two tokens and raises nothing.
        tokens, expected = len(self.tokenizer), self.text_encoder.config.vocab_size
        if not 0 <= expected - tokens <= self.spare_tokens:
            raise ValueError(
                f"the tokenizer of {self.source} has {tokens} tokens and its text encoder {expected}:"
                " files are missing or broken in its folder tokenizer"
            )

    def _max_tokens(self) -> int:
        longest = getattr(self.text_encoder.config, "max_position_embeddings", LONGEST)
        return min(self.tokenizer.model_max_length, longest, LONGEST)

    def _token_ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids

    def _shortened(self, text: str, suffix: str = "") -> str:
        """`text` without the last words that would not fit before `suffix`."""
        room = self._max_tokens() - self.special_tokens - len(self._token_ids(suffix))
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
