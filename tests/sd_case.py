"""Stable Diffusion guidances of a few thousand weights, what to show them, and a UNet that knows the answer."""

from types import SimpleNamespace

import torch

from guidance.stable_diffusion import StableDiffusion
from guidance.types import GuidanceBatch
from tiny_diffusion import LATENT

VAES = ("AutoencoderTiny", "AutoencoderKL")


def load(folder, device="cpu", text="a green frog", **options):
    guidance = StableDiffusion(folder, device=device, precision=options.pop("precision", "fp32"), **options)
    guidance.prepare(text)
    return guidance


def batch(device="cpu", seed=0, size=20, latents=None, views=2, **options):
    generator = torch.Generator().manual_seed(99)
    images = None if latents is not None else torch.rand(views, 3, size, size, generator=generator).to(device)
    return GuidanceBatch(
        images=images.requires_grad_() if images is not None else None,
        latents=latents,
        azimuth=torch.tensor([20.0, -140.0])[:views],
        elevation=torch.tensor([10.0, 0.0])[:views],
        generator=torch.Generator().manual_seed(seed),
        **options,
    )


def random_latents(device="cpu", size=LATENT):
    return torch.randn(2, 4, size, size, generator=torch.Generator().manual_seed(7)).to(device).requires_grad_()


class OriginalKnown(torch.nn.Module):
    """A UNet that knows the clean latents, and answers in any prediction type."""

    def __init__(self, original, alphas_cumprod, prediction_type):
        super().__init__()
        self.original, self.alphas, self.prediction_type = original, alphas_cumprod, prediction_type

    def forward(self, noisy, timesteps, embeddings):
        a = self.alphas[timesteps].view(-1, 1, 1, 1)
        original = self.original.repeat(len(noisy) // len(self.original), 1, 1, 1)
        original = original + 0.1 * embeddings.mean((1, 2)).view(-1, 1, 1, 1)  # the prompt matters
        noise = (noisy - a.sqrt() * original) / (1 - a).sqrt()
        v = a.sqrt() * noise - (1 - a).sqrt() * original
        return SimpleNamespace(sample={"epsilon": noise, "v_prediction": v, "sample": original}[self.prediction_type])
