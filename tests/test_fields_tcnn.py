"""The field on tiny-cuda-nn: on a GPU that has it with it and against its double, elsewhere on the double alone."""

import builtins
import importlib.util
import math
import sys

import pytest
import torch
from torch.testing import assert_close

import cases
import tinycudann_double
from nerf.fields import TcnnField

SMALL = {"num_levels": 4, "log2_hashmap_size": 10, "desired_resolution": 70, "hidden_dim": 16}
HAS_TCNN = torch.cuda.is_available() and importlib.util.find_spec("tinycudann") is not None


@pytest.fixture(autouse=True)
def double(monkeypatch):
    monkeypatch.setitem(sys.modules, "tinycudann", tinycudann_double)


def tcnn(**options):
    return TcnnField(**{**SMALL, **options})


def points(count, bound=1.0, seed=0):
    return (2 * cases.points(count, seed=seed) - 1) * bound


def roughen(field, scale=0.5):
    """Give the grid features of a size that matters."""
    with torch.no_grad():
        field.encoder.params.uniform_(-scale, scale, generator=torch.Generator().manual_seed(3))
    return field


def test_a_new_field_is_the_blob():
    field = tcnn(num_levels=8, blob_density=8.0, blob_radius=0.3)  # 16 features: none of the network's inputs is padded
    centre, rim = field.density(torch.tensor([[0.0, 0, 0], [0.3, 0, 0]])).tolist()
    assert abs(math.log(centre) - 8) < 1 and abs(math.log(rim)) < 1


@pytest.mark.parametrize("count", [0, 1, 31, 257])
def test_query_has_one_row_a_point_and_a_gradient_for_every_parameter(count):
    field = roughen(tcnn(bound=2.0))
    sigma, albedo = field.query(points(count, bound=2.0))
    assert sigma.shape == (count,) and albedo.shape == (count, 3) and sigma.dtype == albedo.dtype == torch.float32
    assert (sigma >= 0).all() and (albedo >= 0).all() and (albedo <= 1).all()
    (sigma.log().sum() + albedo.sum()).backward()
    for parameter in field.parameters():
        assert parameter.grad.isfinite().all() and (parameter.grad.abs().sum() > 0) == (count > 0)


def test_density_is_the_density_of_query():
    field, x = roughen(tcnn()), points(257)
    assert_close(field.density(x), field.query(x)[0], rtol=1e-2, atol=0)  # fp16 before the exponential


def test_normals_of_the_blob_point_outwards():
    x = points(200) * 0.5
    x = x[x.norm(dim=1) > 0.05]
    cosine = (tcnn().normal(x) * torch.nn.functional.normalize(x, dim=1)).sum(1)
    assert cosine.mean() > 0.95  # the untrained network and fp16 tilt them a little


def test_levels_held_back_do_not_count():
    field, x = roughen(tcnn()), points(50)
    field.set_max_level(0.4)  # rounded up: two of four
    held_back = field.potential(x)
    field.set_max_level(1.0)
    assert not torch.allclose(field.potential(x), held_back, rtol=1e-2)
    with torch.no_grad():
        field.encoder.params[field.encoder.offsets[2] * field.encoder.features :] = 0
    assert_close(field.potential(x), held_back)


def test_the_finest_level_has_the_resolution_asked_for():
    encoder = tcnn(bound=2.0).encoder
    assert [tinycudann_double.nodes(scale) for scale in encoder.scales][::3] == [16, 140]


def test_the_grid_learns_ten_times_faster():
    field = tcnn()
    groups = {group["name"]: group for group in field.parameter_groups(0.1)}
    assert groups["encoder"]["lr"] == pytest.approx(1.0) and groups["network"]["lr"] == pytest.approx(0.1)
    assert groups["encoder"]["params"][0] is field.encoder.params
    assert groups["network"]["params"][0] is field.mlp.params


def test_start_values_follow_from_the_generator_alone():
    before = torch.get_rng_state()
    one, same, other = (tcnn(generator=torch.Generator().manual_seed(seed)) for seed in (4, 4, 5))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.mlp.params, same.mlp.params) and torch.equal(one.encoder.params, same.encoder.params)
    assert not torch.equal(one.mlp.params, other.mlp.params)


def test_kernels_are_fused_where_they_can_be():
    field = tcnn()
    assert field.encoder.jit_fusion and field.mlp.jit_fusion


def test_it_learns_a_red_ball():
    field, x = tcnn(), points(512)
    inside, red = x.norm(dim=1) < 0.6, torch.tensor([0.9, 0.1, 0.1])
    optimizer = torch.optim.Adam(field.parameter_groups(1e-2), eps=1e-15)
    for _ in range(60):
        sigma, albedo = field.query(x)
        loss = (1 - (-0.1 * sigma).exp() - inside.float()).square().mean() + (albedo[inside] - red).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    sigma, albedo = field.query(x)
    assert ((sigma > 7) == inside).float().mean() > 0.95  # 7: half opaque over 0.1
    assert (albedo[inside] - red).abs().mean() < 0.1


def test_analytic_normals_are_refused():
    with pytest.raises(ValueError, match="no second derivative for analytic normals"):
        tcnn(normal_mode="analytic")


def test_a_machine_it_cannot_use_is_one_line(monkeypatch):
    def fail(name, *arguments, **options):
        if name == "tinycudann":
            raise OSError("Unknown compute capability. Ensure PyTorch with CUDA support is installed.")
        return load(name, *arguments, **options)

    load = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", fail)
    with pytest.raises(ValueError, match="tiny-cuda-nn cannot be used .Unknown compute capability.*--backbone grid"):
        tcnn()


@pytest.mark.cuda
@pytest.mark.skipif(not HAS_TCNN, reason="needs tiny-cuda-nn and its GPU")
@pytest.mark.parametrize("count", [0, 1, 31, 257])
def test_the_real_one_agrees_with_its_double(monkeypatch, count):
    x, found, start = points(count).cuda(), [], None
    for real in (False, True):
        monkeypatch.undo() if real else None
        field = tcnn().cuda()
        start = start or roughen(field.cpu()).cuda().state_dict()
        assert {name: p.shape for name, p in field.state_dict().items()} == {n: p.shape for n, p in start.items()}
        field.load_state_dict(start)
        sigma, albedo = field.query(x)
        (sigma.log() * cases.cotangent(sigma) + (albedo * cases.cotangent(albedo, seed=2)).sum(1)).sum().backward()
        found.append((sigma.log(), albedo, *(p.grad for p in field.parameters())))
    for one, other in zip(*found, strict=True):
        assert (one - other).norm() <= 1e-2 * other.norm()  # fp16
