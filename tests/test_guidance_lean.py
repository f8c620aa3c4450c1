"""guidance/lean.py: the gradient of the plain path, for less memory."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from guidance import lean, memory
from guidance.lean import FrozenConv, NormSilu, make_lean
from guidance.parts import made_in
from live_memory import LiveMemory
from pretended_gpu import refuse_layouts


def autoencoder(**options):
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    usual = dict(
        block_out_channels=(16, 32, 32),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=2,
        norm_num_groups=8,
    )
    return AutoencoderKL(**usual | options).eval().requires_grad_(False)


def lean_copy(vae):
    lean = copy.deepcopy(vae)
    make_lean(lean.encoder)
    return lean


def gradient(vae, pictures):
    """Of a random direction of the latents, with respect to the pictures."""
    pictures = pictures.clone().requires_grad_()
    latents = vae.encode(pictures).latent_dist.mode()
    direction = torch.randn(latents.shape, generator=torch.Generator().manual_seed(1)).to(latents)
    return latents.detach(), torch.autograd.grad(latents, pictures, direction)[0]


def kept(vae, size, batch=1):
    """Bytes that are kept for the gradient of one pass; every storage counts once, weights do not."""
    weights = {p.untyped_storage()._cdata for p in vae.parameters()}
    storages = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            storages[storage._cdata] = (storage.nbytes(), tensor)
        return tensor

    pictures = torch.rand(batch, 3, size, size, dtype=next(vae.parameters()).dtype)
    pictures = pictures.contiguous(memory_format=torch.channels_last).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        vae.encode(pictures)
    return sum(size for size, _ in storages.values())


@pytest.mark.parametrize("shape", [(1, 8, 1, 1), (2, 8, 5, 3), (1, 16, 31, 17), (3, 8, 1, 257)])
def test_norm_and_silu_in_one_have_their_gradient(device, shape):
    norm = nn.GroupNorm(4, shape[1]).double().to(device)
    with torch.no_grad():
        norm.weight.normal_(1), norm.bias.normal_()
    x = torch.randn(shape, dtype=torch.float64, device=device, requires_grad=True)
    y, reference = NormSilu.apply(x, norm.weight, norm.bias, 4, norm.eps), nn.functional.silu(norm(x))
    assert torch.equal(y, reference)
    direction = torch.randn_like(y)
    for given in (direction, direction.contiguous(memory_format=torch.channels_last)):
        ours, theirs = (torch.autograd.grad(out, x, given, retain_graph=True)[0] for out in (y, reference))
        assert torch.allclose(ours, theirs, rtol=1e-12, atol=1e-12)
    if x.numel() < 500 and x[0, 0].numel() > 1:
        weights = norm.weight.detach(), norm.bias.detach()
        assert torch.autograd.gradcheck(lambda x: NormSilu.apply(x, *weights, 4, norm.eps), x)


@pytest.mark.parametrize("stride, padding, kernel", [(1, 1, 3), (2, 0, 3), (1, 0, 1), (2, 1, 4), (3, 2, 2)])
def test_a_frozen_convolution_has_the_gradient_of_a_convolution(device, stride, padding, kernel):
    conv = nn.Conv2d(6, 4, kernel, stride, padding).double().to(device).requires_grad_(False)
    x = torch.randn(2, 6, 9, 7, dtype=torch.float64, device=device, requires_grad=True)
    same = lambda x: FrozenConv.apply(x, conv.weight, conv.bias, (stride,) * 2, (padding,) * 2, (1, 1), 1)  # noqa: E731
    assert torch.equal(same(x), conv(x))
    direction = torch.randn_like(conv(x))
    ours, theirs = (torch.autograd.grad(f(x), x, direction)[0] for f in (same, conv))
    assert torch.allclose(ours, theirs, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(same, x, nondet_tol=1e-12)  # cuDNN may add in any order


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("batch, size", [(1, 32), (3, 24)])
def test_an_autoencoder_has_the_same_latents_and_the_same_gradient(device, monkeypatch, batch, size, channels_last):
    vae = autoencoder().to(device)
    if channels_last:
        vae.to(memory_format=torch.channels_last)
    pictures = torch.rand(batch, 3, size, size, device=device)
    (latents, ours), (expected, theirs) = gradient(lean_copy(vae), pictures), gradient(vae, pictures)
    assert torch.allclose(latents, expected, rtol=1e-5, atol=1e-5)  # sums in another order where the layout is another
    assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-6 * theirs.abs().max())
    assert torch.cosine_similarity(ours.flatten(), theirs.flatten(), 0) > 1 - 1e-6


class AsOnGpu(TorchDispatchMode):
    """Takes the layouts alone that torch's CUDA kernels take."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        refuse_layouts(func.__name__.split(".")[0], args)
        return func(*args, **(kwargs or {}))


def test_on_a_gpu_the_pixels_of_a_channel_lie_together_while_they_are_normalised(monkeypatch):
    vae, pictures = autoencoder().to(memory_format=torch.channels_last), torch.rand(2, 3, 24, 24)
    expected = gradient(vae, pictures)
    with AsOnGpu(), pytest.raises(RuntimeError, match="is_contiguous"):
        gradient(lean_copy(vae), pictures)
    monkeypatch.setattr(lean, "_takes_channels_last", lambda x: False)
    with AsOnGpu():
        found = gradient(lean_copy(vae), pictures)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    same = torch.randn(2, 8, 3, 5).contiguous(memory_format=torch.channels_last).requires_grad_()
    y = NormSilu.apply(same, torch.ones(8), torch.zeros(8), 4, 1e-5)
    assert y.grad_fn.saved_tensors[0].data_ptr() == same.data_ptr()  # not a copy in the other layout
    (back,) = torch.autograd.grad(y.sum(), same)
    assert all(each.is_contiguous(memory_format=torch.channels_last) for each in (y, back))


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_a_sum_is_scaled_where_the_model_says_so_and_only_there(scale):
    vae = autoencoder()
    blocks = [module for module in vae.encoder.modules() if hasattr(module, "output_scale_factor")]
    for block in blocks:
        block.output_scale_factor = scale
    pictures = torch.rand(1, 3, 16, 16)
    (latents, ours), (expected, theirs) = gradient(lean_copy(vae), pictures), gradient(vae, pictures)
    torch.testing.assert_close((latents, ours), (expected, theirs), rtol=1e-4, atol=1e-5)
    with torch.profiler.profile() as seen:
        lean_copy(vae).encode(pictures)
    divisions = sum(event.count for event in seen.key_averages() if event.key == "aten::div")
    assert divisions == 1 + (len(blocks) if scale != 1 else 0)  # one of the attention's


def test_in_half_precision_the_gradient_is_as_far_from_float32_as_the_plain_one():
    vae, pictures = autoencoder(), torch.rand(2, 3, 32, 32)
    _, exact = gradient(vae, pictures)
    half = copy.deepcopy(vae).bfloat16()
    (_, ours), (_, theirs) = gradient(lean_copy(half), pictures.bfloat16()), gradient(half, pictures.bfloat16())
    off = lambda g: (g.float() - exact).norm() / exact.norm()  # noqa: E731
    assert off(ours) < 1.2 * off(theirs)
    assert torch.cosine_similarity(ours.float().flatten(), theirs.float().flatten(), 0) > 0.999


def test_little_is_kept_of_stable_diffusions_own_autoencoder_at_512(monkeypatch):
    """Computed on fake tensors of its true size in half precision: 1.59 GB before, half a gigabyte after."""
    monkeypatch.setattr(lean, "_takes_channels_last", lambda x: False)  # as on a GPU
    with made_in(torch.float16), FakeTensorMode():
        vae = autoencoder(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            norm_num_groups=32,
        )
        plain = kept(vae, 512)
        make_lean(vae.encoder)
        little = kept(vae, 512)
        decoder = sum(p.numel() for p in vae.decoder.parameters())
        with torch.no_grad(), LiveMemory() as decoding:
            vae.decode(torch.rand(1, 4, 64, 64))
        vae.decoder = None
        with LiveMemory() as live:
            gradient(vae, torch.rand(1, 3, 512, 512).contiguous(memory_format=torch.channels_last))
        encoder = sum(p.numel() for p in vae.encoder.parameters())
    assert 1.55e9 < plain < 1.65e9
    assert little < 0.52e9
    assert 0.59e9 < live.peak < 0.61e9 < (memory.ENCODED + memory.PROMPTED * memory.AT_ONCE) * 512**2
    assert 2 * encoder == pytest.approx(memory.AUTOENCODER_BYTES, rel=0.01)
    assert decoding.peak + 2 * decoder < live.peak  # a distance in pixels takes no more than the plans say


def test_weights_that_learn_are_refused():
    with pytest.raises(ValueError, match="only a frozen encoder"):
        make_lean(autoencoder().requires_grad_(True).encoder)
