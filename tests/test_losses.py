"""Losses against closed forms and finite differences, and the table against the options."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from gridencoder import GridEncoder
from nerf import losses
from nerf.config import LossConfig
from nerf.losses import LOSSES, FieldLoss, Loss, add_field_gradients, evaluate
from nerf.types import RenderOutput

EVERYTHING = {name: 1.0 for name in LOSSES}


def output(opacity=None, normal=None, size=(2, 3, 4), **samples):
    b, h, w = size if opacity is None else opacity.shape[:3]
    opacity = torch.zeros(b, h, w, 1) if opacity is None else opacity
    return RenderOutput(torch.zeros(b, h, w, 3), opacity, torch.zeros(b, h, w, 1), normal, samples)


def sampled(m, size=(1, 2, 2), dtype=torch.float64, seed=0):
    """A picture with m samples of random unit normals and directions."""
    generator = torch.Generator().manual_seed(seed)

    def unit():
        return torch.nn.functional.normalize(torch.randn(m, 3, generator=generator, dtype=dtype), dim=-1)

    return output(
        torch.rand(*size, 1, generator=generator, dtype=dtype),
        torch.randn(*size, 3, generator=generator, dtype=dtype),
        weights=torch.rand(m, generator=generator, dtype=dtype),
        normals=unit(),
        directions=unit(),
        normals_perturbed=unit(),
    )


@pytest.mark.parametrize("opacity, bits", [(0.5, 1.0), (0.25, 0.811278), (0.75, 0.811278), (0.0, 0.0), (1.0, 0.0)])
def test_entropy_is_that_of_a_coin(opacity, bits):
    value = losses.entropy(output(torch.full((1, 3, 5, 1), opacity)))
    assert value.item() == pytest.approx(bits, abs=2e-4)  # the clamp at 1e-5 leaves 1.8e-4 bits at the ends


def test_opacity_is_its_mean_square():
    picture = torch.tensor([0.0, 0.5, 1.0, 0.5]).reshape(1, 2, 2, 1)
    assert losses.opacity(output(picture)).item() == pytest.approx(1.5 / 4)


@pytest.mark.parametrize("degrees", [0, 45, 90, 120, 180])
def test_orient_punishes_only_normals_that_face_away(degrees):
    angle = torch.deg2rad(torch.tensor(float(degrees)))  # between the normal and the direction to the camera
    normal = torch.stack([angle.sin(), angle.new_zeros(()), angle.cos()])[None]
    out = output(size=(1, 1, 1), normals=normal, directions=torch.tensor([[0.0, 0, -1]]), weights=torch.tensor([0.5]))
    expected = 0.5 * max(0.0, -angle.cos().item()) ** 2
    assert losses.orient(out).item() == pytest.approx(expected, abs=1e-6)


def test_orient_does_not_depend_on_how_a_ray_is_cut_into_samples():
    one = sampled(4)
    parts = {name: values.repeat_interleave(3, 0) for name, values in one.samples.items()}
    parts["weights"] = parts["weights"] / 3
    for function in (losses.orient, losses.normal_smooth_3d):
        assert_close(function(output(one.opacity, **parts)), function(one))


def test_orient_is_a_mean_over_rays():
    one = sampled(4, size=(1, 2, 2))
    twice = {name: torch.cat([values, values]) for name, values in one.samples.items()}
    assert_close(losses.orient(output(torch.cat([one.opacity, one.opacity]), **twice)), losses.orient(one))


def test_2d_normal_smooth_of_a_slope_is_its_square():
    rows = torch.arange(4.0)[None, :, None, None].expand(1, 4, 5, 3)
    columns = torch.arange(5.0)[None, None, :, None].expand(1, 4, 5, 3)
    assert losses.normal_smooth_2d(output(normal=0.5 * rows)).item() == pytest.approx(0.25)
    assert losses.normal_smooth_2d(output(normal=0.5 * rows + 0.1 * columns)).item() == pytest.approx(0.26)


def test_3d_normal_smooth_is_the_weighted_mean_difference():
    normals = torch.tensor([[1.0, 0, 0], [0, 1, 0]])
    moved = torch.tensor([[0.0, 1, 0], [0, 1, 0]])
    out = output(normals=normals, normals_perturbed=moved, weights=torch.tensor([0.2, 0.6]))
    assert losses.normal_smooth_3d(out).item() == pytest.approx(0.25 * 2 / 3)


@pytest.mark.parametrize("name", [name for name, loss in LOSSES.items() if isinstance(loss, Loss)])
def test_gradients_agree_with_finite_differences(name):
    out = sampled(31, size=(2, 3, 4))
    inputs = [out.opacity * 0.9 + 0.05, out.normal, out.samples["normals"], out.samples["normals_perturbed"]]

    def value(opacity, normal, normals, perturbed):
        samples = {**out.samples, "normals": normals, "normals_perturbed": perturbed}
        return LOSSES[name].function(RenderOutput(out.rgb, opacity, out.depth, normal, samples))

    assert torch.autograd.gradcheck(value, [x.clone().requires_grad_() for x in inputs])


@pytest.mark.parametrize("name", ["orient", "3d_normal_smooth"])
def test_losses_on_normals_give_the_weights_no_gradient(name):
    out = sampled(31)
    out.samples["weights"].requires_grad_()
    out.samples["normals"].requires_grad_()
    LOSSES[name].function(out).backward()
    assert out.samples["weights"].grad is None and out.samples["normals"].grad.abs().sum() > 0


@pytest.mark.parametrize("m", [0, 1, 31, 257])
@pytest.mark.parametrize("size", [(1, 1, 1), (2, 1, 5), (1, 4, 3)])
def test_every_term_and_gradient_is_finite_at_every_size(m, size):
    out = sampled(m, size, torch.float32)
    out.samples["normals"].requires_grad_()
    out.opacity.requires_grad_()
    out.normal.requires_grad_()
    terms = evaluate(out, EVERYTHING)
    assert terms.keys() == {name for name, loss in LOSSES.items() if isinstance(loss, Loss)}
    sum(terms.values()).backward()
    for tensor in (*terms.values(), out.samples["normals"].grad, out.opacity.grad, out.normal.grad):
        assert torch.isfinite(tensor).all()


def test_gradients_are_finite_at_the_ends_of_opacity():
    opacity = torch.tensor([0.0, 1.0, 1e-7, 1 - 1e-7]).reshape(1, 2, 2, 1).requires_grad_()
    losses.entropy(output(opacity)).backward()
    assert torch.isfinite(opacity.grad).all()


def test_only_losses_with_a_weight_are_computed(monkeypatch):
    def never(out):
        raise AssertionError("computed with weight 0")

    monkeypatch.setitem(LOSSES, "entropy", Loss(never, 1.0, ""))
    terms = evaluate(sampled(5), {"opacity": 0.5, "entropy": 0.0, "guidance": 1.0})
    assert list(terms) == ["opacity"]


def test_terms_are_not_weighted():
    out = sampled(5)
    assert_close(evaluate(out, {"opacity": 0.5})["opacity"], losses.opacity(out))


def test_losses_on_normals_rest_where_the_shading_needs_none():
    assert evaluate(output(), EVERYTHING).keys() == {"entropy", "opacity"}


class Grid(torch.nn.Module):
    """Records what it is asked to add."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def grad_total_variation(self, weight, inputs=None, bound=1, generator=None):
        self.calls.append(("tv", weight, bound, generator))

    def grad_weight_decay(self, weight):
        self.calls.append(("wd", weight))


def a_field(encoder):
    field = torch.nn.Module()
    field.encoder, field.bound = encoder, 2.0
    return field


def test_encoder_losses_go_to_the_encoder_with_their_weight():
    field, generator = a_field(Grid()), torch.Generator()
    add_field_gradients(field, {"tv": 0.5, "wd": 0.25, "entropy": 1.0}, generator=generator)
    assert field.encoder.calls == [("tv", 0.5, 2.0, generator), ("wd", 0.25)]


def test_encoder_losses_without_weight_ask_nothing_of_the_field():
    add_field_gradients(a_field(torch.nn.Identity()), {"tv": 0.0, "entropy": 1.0}, generator=torch.Generator())


def test_encoder_losses_on_a_field_without_grid_are_refused_by_their_option():
    with pytest.raises(ValueError, match="--lambda_tv needs --backbone grid"):
        add_field_gradients(a_field(torch.nn.Identity()), {"tv": 1.0}, generator=torch.Generator())


def test_encoder_losses_add_to_the_gradient_of_the_real_grid():
    def seeded():
        return torch.Generator().manual_seed(0)

    torch.manual_seed(0)
    encoder = GridEncoder(num_levels=2, log2_hashmap_size=8)
    embeddings, before = encoder.embeddings, encoder.embeddings.detach().clone()
    embeddings.grad = torch.ones_like(embeddings)
    add_field_gradients(a_field(encoder), {"tv": 0.1, "wd": 0.2}, generator=seeded())
    added, embeddings.grad = embeddings.grad, torch.ones_like(embeddings)
    encoder.grad_total_variation(0.1, bound=2.0, generator=seeded())
    encoder.grad_weight_decay(0.2)
    assert not torch.equal(embeddings.grad, torch.ones_like(embeddings))
    assert torch.equal(added, embeddings.grad)
    assert torch.equal(embeddings, before)  # only the gradient changes


@pytest.mark.parametrize("name, shares", [("entropy", (0, 0.5, 1, 1)), ("tv", (0, 0.5, 1, 1)), ("orient", (1,) * 4)])
def test_ramps_at_the_start_a_quarter_half_and_the_end(name, shares):
    assert tuple(LOSSES[name].ramp(fraction) for fraction in (0.0, 0.25, 0.5, 1.0)) == shares


def test_the_options_are_the_table():
    assert LossConfig() == LossConfig(**{f"lambda_{name}": loss.default for name, loss in LOSSES.items()})
    assert all(isinstance(loss, Loss | FieldLoss) and loss.help for loss in LOSSES.values())


def test_the_table_is_read_without_torch():
    code = "import sys, nerf.losses; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent.parent, check=True)
