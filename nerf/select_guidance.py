"""Which diffusion model judges the pictures when the user did not say. Imports no torch."""

from __future__ import annotations

import os
from typing import Any

from guidance import hub, layout, weights
from nerf import driver
from nerf.config import Config

PROBE_TIMEOUT = 5.0  # seconds the hub has to show that the weights can be downloaded


def select_guidance(config: Config, typed: dict[str, Any]) -> tuple[tuple[str, ...], str]:
    """The guidance of a run and one line that says why ("" where the user chose it).

    --guidance decides; a model named by --hf_key or --sd_version is Stable Diffusion. Without either: Stable
    Diffusion where there is an accelerator and its weights are cached or can be downloaded, else toybox.
    """
    if config.guidance.guidance:
        return config.guidance.guidance, ""
    if "hf_key" in typed or "sd_version" in typed:
        return ("SD",), ""
    if not has_accelerator(config.guided_on):
        reason = "no GPU that torch can use; --guidance SD is Stable Diffusion"
    elif not weights_available(config.guidance.sd_version):
        reason = "Stable Diffusion is neither cached nor can be downloaded; --guidance SD says why"
    else:
        return ("SD",), f"guidance: Stable Diffusion {config.guidance.sd_version} (--guidance toybox needs no download)"
    return ("toybox",), f"guidance: toybox, the model in this repository ({reason})"


def find_weights(config: Config, name: str, half: bool) -> weights.Located:
    """The model of a guidance that is no part of this repository (SD, IF), downloaded where it is not here.

    Raises:
        ValueError: it cannot be had; one line says why, of every source.
    """
    options = config.guidance
    if name == "IF":
        sources, family = [options.hf_key] if options.hf_key else weights.DEEPFLOYD_SOURCES, layout.DEEPFLOYD
    else:
        sources, family = weights.resolve(options.sd_version, options.hf_key), layout.STABLE_DIFFUSION
    return weights.locate(
        sources, half, sd_version=options.sd_version, local_files_only=options.local_files_only, family=family
    )


def has_accelerator(device: str = "auto") -> bool:
    """Whether training will run on a GPU: there is one that torch can use, and the user did not ask for cpu."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    return device != "cpu" and not hidden and 0 < driver.torch_cuda() <= driver.driver_cuda()


def weights_available(sd_version: str) -> bool:
    """Whether one of the version's sources is cached or answers on the hub. Downloads nothing."""
    from huggingface_hub import HfApi

    sources = weights.resolve(sd_version)
    if any(weights.cached(source) for source in sources):
        return True
    for source in sources:
        try:
            HfApi().model_info(source, timeout=PROBE_TIMEOUT)
            return True
        except Exception as error:  # the hub's client has no common base for its errors
            if hub.explain(error).startswith("hub unreachable"):  # so are the other sources
                return False
    return False
