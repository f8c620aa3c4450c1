"""The parts of a Stable Diffusion model, from a diffusers folder, a single file, or drawn at random."""

from __future__ import annotations

import contextlib
import json
import logging
from typing import Any

import torch

from guidance import single_file
from guidance.layout import DEEPFLOYD, STABLE_DIFFUSION, check_family
from guidance.weights import RANDOM, Located

log = logging.getLogger(__name__)
DRAWN = 1_000_003  # a prime: rows of a matrix are not each other's copies
RANDOM_SEED = 0
VOCABULARY, TOKENS = 49408, 77  # of CLIP's tokenizer
UNETS = {
    "1.5": dict(sample_size=64, cross_attention_dim=768, attention_head_dim=8),
    "2.1": dict(
        sample_size=64, cross_attention_dim=1024, attention_head_dim=(5, 10, 20, 20), use_linear_projection=True
    ),
}
AUTOENCODER = dict(
    block_out_channels=(128, 256, 512, 512),
    down_block_types=("DownEncoderBlock2D",) * 4,
    up_block_types=("UpDecoderBlock2D",) * 4,
    layers_per_block=2,
    sample_size=512,
)
TEXT_ENCODERS = {
    "1.5": dict(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12),
    "2.1": dict(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=23, num_attention_heads=16, hidden_act="gelu"
    ),
}
SCHEDULE = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False)


def open_parts(located: Located) -> FolderParts | RandomParts:
    """The parts of what `weights.locate` found."""
    if located.folder is None:
        return RandomParts(RANDOM[located.source])
    return SingleFileParts(located) if located.single else FolderParts(located)


class FolderParts:
    """A folder in the diffusers layout. Nothing is read that is not asked for."""

    def __init__(self, located: Located):
        self.folder, self.variants, self.family = located.folder, located.variants, located.family

    def classes(self) -> dict[str, str]:
        """The class of every part. Raises layout.Unusable before gigabytes of another family are read."""
        return check_family(json.loads((self.folder / "model_index.json").read_text(encoding="utf-8")), self.family)

    def load(self, model_class: type, part: str, dtype: torch.dtype) -> torch.nn.Module:
        """unet, vae or text_encoder, as `model_class`, from this disk only."""
        with quiet():
            return model_class.from_pretrained(
                str(self.folder), subfolder=part, dtype=dtype, variant=self.variants[part], local_files_only=True
            )

    def scheduler(self) -> Any:
        from diffusers import DDPMScheduler

        return DDPMScheduler.from_pretrained(str(self.folder), subfolder="scheduler")

    def tokenizer(self) -> Any:
        from transformers import CLIPTokenizer, T5TokenizerFast

        kind = T5TokenizerFast if self.family is DEEPFLOYD else CLIPTokenizer
        return kind.from_pretrained(str(self.folder / "tokenizer"))


class SingleFileParts(FolderParts):
    """Weights from one file; the configuration and the tokenizer from a folder."""

    def __init__(self, located: Located):
        super().__init__(located)
        self.path = located.single

    def load(self, model_class: type, part: str, dtype: torch.dtype) -> torch.nn.Module:
        with quiet():  # read anew for each part, so that nothing of the file stays in memory
            return single_file.load_part(self.path, self.folder, model_class, part).to(dtype)


class RandomParts:
    """The architecture of a version of Stable Diffusion, with weights that know nothing: to measure time and memory."""

    def __init__(self, version: str):
        self.version = version
        log.warning(
            "RANDOM WEIGHTS: a model of the size of Stable Diffusion %s that knows nothing, to measure time and memory;"
            " what it makes is noise",
            version,
        )

    def classes(self) -> dict[str, str]:
        return {part: kinds[0] for part, kinds in STABLE_DIFFUSION.classes.items()}

    def load(self, model_class: type, part: str, dtype: torch.dtype) -> torch.nn.Module:
        """unet, vae or text_encoder; the same weights every time."""
        with made_in(dtype), torch.random.fork_rng(devices=[]), quiet():
            torch.manual_seed(RANDOM_SEED)
            with drawn_once():
                return self._make(model_class, part)

    def _make(self, model_class: type, part: str) -> torch.nn.Module:
        if part == "text_encoder":
            return model_class(model_class.config_class(**TEXT_ENCODERS[self.version]))
        return model_class(**(UNETS[self.version] if part == "unet" else AUTOENCODER))

    def scheduler(self) -> Any:
        from diffusers import DDPMScheduler

        return DDPMScheduler(**SCHEDULE)

    def tokenizer(self) -> Any:
        """As large as CLIP's, but it spells every word letter by letter."""
        from transformers import CLIPTokenizer

        letters = [chr(code) for code in range(33, 127)]
        words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
        words += [f"<|{i}|>" for i in range(VOCABULARY - len(words))]
        return CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[], model_max_length=TOKENS)


@contextlib.contextmanager
def made_in(dtype: torch.dtype):
    """New tensors are in `dtype`, where made in float32 first they would take twice the memory."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def quiet():
    """Without diffusers' advice to install accelerate and transformers' progress bars."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    level, bars = diffusers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    diffusers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        diffusers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()


@contextlib.contextmanager
def drawn_once():
    """Weights are the same numbers again and again, scaled: to draw each of a billion takes up to a minute."""
    normal, uniform = torch.randn(DRAWN), torch.rand(DRAWN)

    def repeat(weight: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        for part in weight.view(-1).split(len(numbers)):
            part.copy_(numbers[: len(part)])
        return weight

    methods = {
        "normal_": lambda self, mean=0.0, std=1.0, generator=None: repeat(self, normal).mul_(std).add_(mean),
        "uniform_": lambda self, low=0.0, high=1.0, generator=None: repeat(self, uniform).mul_(high - low).add_(low),
    }
    for name, method in methods.items():
        setattr(torch.Tensor, name, method)
    try:
        yield
    finally:
        for name in methods:
            delattr(torch.Tensor, name)
