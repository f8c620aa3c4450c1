"""Convolutions behind one another as one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from guidance.folded import Folded, fold
from guidance.stable_diffusion import StableDiffusion
from nerf.config import Config

PRIOR = Path(Config().guidance.toybox_dir)
SIDES = [1, 2, 3, 4, 5, 31, 64]


def frozen(*layers: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            layer.reset_parameters()
    return nn.Sequential(*layers).double().requires_grad_(False)


def conv(inputs, outputs, **options):
    return nn.Conv2d(inputs, outputs, 3, padding=1, **options)


CHAINS = {
    "strides of 2": lambda: (conv(3, 8), conv(8, 8, stride=2, bias=False)),
    "upsampled": lambda: (nn.Upsample(scale_factor=2), conv(8, 8, bias=False), conv(8, 3)),
    "neither": lambda: (conv(8, 8), conv(8, 3)),
    "many to few": lambda: (conv(3, 8, bias=False), conv(8, 2, bias=False)),
}


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", CHAINS)
def test_folded_convolutions_give_the_same_pictures_and_gradients(name, side):
    plain = frozen(*CHAINS[name]())
    folded = fold(plain)
    assert [type(layer) for layer in folded] == [Folded]
    x = torch.randn(2, plain[-2].in_channels, side, side + 3, dtype=torch.float64, requires_grad=True)
    expected, given = plain(x), folded(x)
    torch.testing.assert_close(given, expected)
    cotangent = torch.randn_like(expected)
    grads = [torch.autograd.grad(y, x, cotangent)[0] for y in (expected, given)]
    torch.testing.assert_close(grads[1], grads[0])


@pytest.mark.parametrize("x", [torch.empty(0, 8, 8, 8), torch.randn(1, 8, 1, 1)])
def test_folded_convolutions_take_what_is_empty_or_one_pixel(x):
    plain = frozen(*CHAINS["upsampled"]())
    torch.testing.assert_close(fold(plain)(x.double()), plain(x.double()))


@pytest.mark.parametrize(
    "layers",
    [
        (conv(3, 8), nn.ReLU(), conv(8, 8)),
        (conv(8, 8), conv(8, 8)),  # 25 products instead of 18
        (conv(3, 8, stride=2), conv(8, 3)),
        (conv(3, 8), nn.Conv2d(8, 3, 1)),
        (conv(3, 8, padding_mode="reflect"), conv(8, 3)),
        (conv(4, 8, groups=2), conv(8, 3)),
        (conv(3, 8), conv(8, 3, dilation=2)),
    ],
    ids=["activation", "more to compute", "strides of the first", "1 x 1", "padding", "groups", "dilation"],
)
def test_what_cannot_be_folded_or_would_not_pay_stays(layers):
    plain = frozen(*layers)
    assert list(fold(plain)) == list(plain)


def test_what_still_learns_stays():
    plain = frozen(*CHAINS["neither"]()).requires_grad_(True)
    assert list(fold(plain)) == list(plain)


def test_what_is_upsampled_otherwise_is_upsampled_first():
    upsample = nn.Upsample(scale_factor=2, mode="bilinear")
    plain = frozen(upsample, *CHAINS["neither"]())
    folded = fold(plain)
    assert [type(layer) for layer in folded] == [nn.Upsample, Folded]
    x = torch.randn(1, 8, 5, 6, dtype=torch.float64)
    torch.testing.assert_close(folded(x), plain(x))


def test_toyboxs_autoencoder_is_folded_at_both_ends_on_a_cpu():
    from diffusers import AutoencoderTiny

    guidance = StableDiffusion(str(PRIOR), pictures=True, precision="fp32")
    layers = (*guidance.vae.encoder.layers, *guidance.vae.decoder.layers)
    assert [isinstance(layer, Folded) for layer in layers].count(True) == 2
    assert isinstance(layers[0], Folded) and isinstance(layers[-1], Folded)
    plain = AutoencoderTiny.from_pretrained(PRIOR / "vae").float()
    pictures, latents = torch.rand(2, 3, 128, 128), torch.randn(2, *guidance.latent_shape)
    with torch.no_grad():
        expected = plain.encode(2 * pictures - 1).latents, (plain.decode(latents).sample + 1) / 2
    torch.testing.assert_close(guidance.encode(pictures), expected[0] * guidance.scaling_factor, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(guidance.decode(latents * guidance.scaling_factor), expected[1].clamp(0, 1))
