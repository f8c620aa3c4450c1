import math

import pytest
import torch
from torch.testing import assert_close

import cases
import scenes
from fusedfield.reference import density_blob, truncated_exp
from nerf.encoding import get_encoder
from nerf.fields import BackgroundNetwork, HashGridField, VanillaField
from nerf.fields.base import MLP, Field, linear, seeded

SMALL = {"num_levels": 4, "log2_hashmap_size": 10, "desired_resolution": 64, "hidden_dim": 16}


def hashgrid(**options):
    return HashGridField(**{**SMALL, **options})


def vanilla(**options):
    return VanillaField(**{"degree": 4, "hidden_dim": 16, "num_layers": 1, **options})


FIELDS = pytest.mark.parametrize("build", [hashgrid, vanilla])
MODES = pytest.mark.parametrize("mode", ["finite", "analytic"])


def points(count, bound=1.0, seed=0):
    return (torch.rand(count, 3, generator=torch.Generator().manual_seed(seed)) * 2 - 1) * bound


def roughen(field, scale=0.5):
    """Give the grid features of a size that matters."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in field.named_parameters():
            if "embeddings" in name:
                parameter.uniform_(-scale, scale, generator=generator)
    return field


def test_truncated_exp_is_exp_below_its_limit():
    x = torch.tensor([-20.0, 0.0, 14.9], requires_grad=True)
    assert_close(truncated_exp(x), x.exp())
    assert_close(torch.autograd.grad(truncated_exp(x).sum(), x)[0], x.exp().detach())


def test_truncated_exp_stops_growing_but_keeps_a_gradient():
    x = torch.tensor([100.0], requires_grad=True)
    y = truncated_exp(x)
    assert_close(y, torch.tensor([math.exp(15.0)]))
    assert_close(torch.autograd.grad(y.sum(), x)[0], torch.tensor([math.exp(15.0)]))


def test_truncated_exp_has_a_second_derivative():
    x = torch.tensor([-1.0, 0.5], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(truncated_exp, x)


def test_blob_falls_linearly_from_its_peak_to_its_radius():
    x = torch.tensor([[0.0, 0.0, 0.0], [0.1, 0.0, 0.0], [0.0, 0.2, 0.0], [0.0, 0.0, -0.4]])
    # 2.5e-3: the rounded tip
    assert_close(density_blob(x, 5.0, 0.2), torch.tensor([5.0, 2.5, 0.0, -5.0]), atol=2.6e-3, rtol=0)


@FIELDS
def test_a_new_field_is_the_blob(build):
    field = build(blob_density=8.0, blob_radius=0.3)
    centre, rim = field.density(torch.tensor([[0.0, 0.0, 0.0], [0.3, 0.0, 0.0]])).tolist()
    # The network adds about nothing yet: a factor of e either way.
    assert abs(math.log(centre) - 8) < 1 and abs(math.log(rim)) < 1


@FIELDS
@pytest.mark.parametrize("count", [0, 1, 257])
def test_query_has_one_row_a_point_in_range(build, count):
    sigma, albedo = roughen(build()).query(points(count))
    assert sigma.shape == (count,) and albedo.shape == (count, 3)
    assert (sigma >= 0).all() and (albedo >= 0).all() and (albedo <= 1).all()


@FIELDS
@pytest.mark.parametrize("activation", ["exp", "softplus"])
def test_density_is_the_density_of_query(build, activation):
    field = roughen(build(density_activation=activation))
    x = points(257)
    assert_close(field.density(x), field.query(x)[0])


@FIELDS
@pytest.mark.parametrize("training", [True, False])
def test_rays_are_queried_up_to_where_they_end(build, training):
    field = roughen(build(blob_radius=1.0))
    *_, ts, packed_info = cases.packed_samples(70, longest=50)
    x, lengths, limit = points(len(ts)), ts[:, 1], 1.0
    with torch.set_grad_enabled(training):
        sigma, albedo, kept, counts = field.query_rays(x, lengths, packed_info, limit)
    assert sigma.requires_grad == albedo.requires_grad == training
    depths, expected = (field.density(x) * lengths).tolist(), []
    for first, count in packed_info.tolist():
        ends = (i + 1 for i in range(count) if sum(depths[first : first + i + 1]) > limit)
        expected.append(next(ends, count))
    assert counts.dtype == torch.int32 and counts.tolist() == expected
    assert kept.tolist() == [
        first + i for (first, _), count in zip(packed_info.tolist(), expected, strict=True) for i in range(count)
    ]
    assert 0.2 < len(kept) / len(x) < 0.9
    for actual, whole in zip((sigma, albedo), field.query(x), strict=True):
        assert_close(actual, whole[kept])


def test_rows_are_independent_of_the_blocks_of_the_network(monkeypatch):
    net = MLP(5, 4, 8, 3, seeded(None))
    x = torch.randn(100, 5, generator=torch.Generator().manual_seed(0))
    whole = net(x)
    monkeypatch.setattr("nerf.fields.base.CPU_BLOCK", 7)
    assert_close(net(x), whole)
    assert_close(net(x, 1), whole[:, :1])


@MODES
def test_normals_of_a_ball_point_outwards(mode):
    x = points(500)
    x = x[x.norm(dim=1) > 0.05]
    normals = scenes.Ball().normal(x, mode)
    cosine = (normals * torch.nn.functional.normalize(x, dim=1)).sum(1)
    # Differences over 0.02 at radius 0.05 miss the direction by up to (0.01 / 0.05)^2.
    assert cosine.min() > (0.999 if mode == "analytic" else 0.98)


@MODES
@FIELDS
def test_normals_of_the_blob_point_outwards(build, mode):
    x = points(200) * 0.5
    x = x[x.norm(dim=1) > 0.05]
    normals = build().normal(x, mode)
    cosine = (normals * torch.nn.functional.normalize(x, dim=1)).sum(1)
    assert cosine.mean() > 0.95  # the untrained network tilts them a little
    assert_close(normals.norm(dim=1), torch.ones(len(x)))


@FIELDS
def test_both_ways_to_a_normal_agree_on_a_smooth_field(build):
    field = build() if build is vanilla else roughen(build(num_levels=1, base_resolution=4), 0.2)
    x = points(200) * 0.8
    cosine = (field.normal(x, "finite") * field.normal(x, "analytic")).sum(1)
    assert cosine.median() > 0.99  # the rest: kinks of the ReLU between the six points


@MODES
@FIELDS
def test_a_loss_on_normals_moves_all_parameters_of_density(build, mode):
    field = roughen(build(normal_mode=mode))
    target = torch.randn(64, 3, generator=torch.Generator().manual_seed(1))
    (field.normal(points(64)) * target).sum().backward()
    gradients = {name: parameter.grad for name, parameter in field.named_parameters()}
    moved = [name for name, grad in gradients.items() if grad is not None and grad.abs().sum() > 0]
    # The bias of the last layer shifts the density, which turns no normal; so do biases inside the ReLU's linear parts.
    assert {name for name in gradients if "weight" in name or "embeddings" in name} <= set(moved)
    assert all(grad is None or grad.isfinite().all() for grad in gradients.values())


@MODES
def test_gradient_of_a_normal_is_its_finite_difference(mode):
    """Through the second derivative of the encoder in analytic mode, through six queries in finite mode."""
    field = roughen(hashgrid(normal_mode=mode))
    x = points(16, seed=5) * 0.5
    direction = torch.randn(16, 3, generator=torch.Generator().manual_seed(2))

    def loss():
        return (field.normal(x) * direction).sum()

    loss().backward()
    weight = field.mlp.layers[-1].weight
    step = 1e-2
    with torch.no_grad():
        difference = []
        for sign in (1, -1):
            weight[0, 3] += sign * step
            difference.append(loss())
            weight[0, 3] -= sign * step
    # 2 %: rounding of float32 differences
    assert_close(weight.grad[0, 3], (difference[0] - difference[1]) / (2 * step), rtol=2e-2, atol=1e-3)


def test_normals_give_no_gradient_graph_without_gradients():
    with torch.no_grad():
        assert not hashgrid(normal_mode="analytic").normal(points(4)).requires_grad


def test_flat_density_has_no_normal():
    assert_close(scenes.Fog(1.0).normal(points(5), "finite"), torch.zeros(5, 3))


def test_differences_do_not_see_what_repeats_within_their_distance():
    class Rippled(Field):
        def density(self, x):
            return 3 - x[:, 0] + 0.1 * torch.sin(2 * torch.pi / 0.06 * x[:, 0]) - x[:, 1]

    x, plane = points(100) * 0.9, torch.tensor([0.5**0.5, 0.5**0.5, 0.0])
    assert_close(Rippled(1.0, normal_step=0.03).normal(x), plane.expand(100, 3), rtol=0, atol=1e-3)
    assert (Rippled(1.0, normal_step=0.01).normal(x) @ plane).min() < 0


def test_unknown_normal_mode_is_named():
    with pytest.raises(ValueError, match="'sobel'"):
        scenes.Ball().normal(points(1), "sobel")


def test_the_grid_learns_ten_times_faster():
    field = hashgrid()
    groups = {group["name"]: group for group in field.parameter_groups(0.1)}
    assert groups["encoder"]["lr"] == pytest.approx(1.0) and groups["network"]["lr"] == pytest.approx(0.1)
    assert [p.shape for p in groups["encoder"]["params"]] == [field.encoder.embeddings.shape]
    assert sum(len(group["params"]) for group in groups.values()) == len(list(field.parameters()))


@pytest.mark.parametrize("build", [hashgrid, vanilla, BackgroundNetwork])
def test_start_values_follow_from_the_generator_alone(build):
    def values(seed):
        torch.manual_seed(seed)  # the global generator must not matter, nor move
        before = torch.get_rng_state()
        module = build(generator=torch.Generator().manual_seed(4))
        assert torch.equal(torch.get_rng_state(), before)
        return [parameter.detach().clone() for parameter in module.parameters()]

    for one, other in zip(values(1), values(2), strict=True):
        assert torch.equal(one, other)


def test_linear_layers_start_in_the_usual_range():
    weight = linear(100, 1000, seeded(None)).weight
    assert weight.abs().max() <= 0.1  # 1 / sqrt(100)
    assert_close(weight.std(), torch.tensor(0.1 / math.sqrt(3)), rtol=0.02, atol=0)


@FIELDS
def test_levels_held_back_do_not_count(build):
    field = roughen(build())
    x = points(50)
    field.set_max_level(0.5)
    held_back = field.density(x)
    field.set_max_level(1.0)
    assert not torch.allclose(field.density(x), held_back)
    with torch.no_grad():
        if build is hashgrid:
            field.encoder.embeddings[int(field.encoder.offsets[2]) :] = 0
        else:
            field.first.weight[:, 3 + 6 * 2 :] = 0
    assert_close(field.density(x), held_back)


@pytest.mark.parametrize("level", [0.0, 1.5])
def test_a_share_of_levels_outside_its_range_is_refused(level):
    with pytest.raises(ValueError, match="share of levels"):
        hashgrid().set_max_level(level)


@FIELDS
def test_bf16_is_close_to_fp32_and_not_the_same(build):
    exact, mixed = roughen(build()), roughen(build(precision="bf16"))
    x = points(500)
    assert mixed.query(x)[0].dtype == torch.float32
    assert not torch.equal(mixed.query(x)[0], exact.query(x)[0])
    # 3 significant digits in bf16, on values before the exponential of size 20 at most
    assert_close(mixed.query(x)[0].log(), exact.query(x)[0].log(), atol=0.05, rtol=0.02)
    assert_close(mixed.query(x)[1], exact.query(x)[1], atol=0.01, rtol=0)
    assert_close(mixed.normal(x), exact.normal(x))


@pytest.mark.parametrize(
    ("build", "options", "message"),
    [
        (hashgrid, {"density_activation": "relu"}, "'relu'.*exp, softplus"),
        (hashgrid, {"precision": "fp16"}, "'fp16'.*fp32, bf16"),
        (hashgrid, {"bound": 0.0}, "bound"),
        (hashgrid, {"normal_mode": "mesh"}, "'mesh'"),
        (hashgrid, {"normal_step": 0.0}, "must be positive, got 0.0"),
        (vanilla, {"num_layers": 0}, "1 layer"),
        (vanilla, {"density_activation": "relu"}, "'relu'"),
    ],
)
def test_impossible_options_are_refused(build, options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


@pytest.mark.parametrize("layers", [1, 3])
def test_a_vanilla_field_has_as_many_blocks_as_asked_for(layers):
    assert len(vanilla(num_layers=layers).blocks) == layers


@pytest.mark.parametrize("encoding", ["frequency", "spherical_harmonics", "identity"])
def test_background_is_a_colour_for_every_direction(encoding):
    options = {} if encoding == "identity" else {"degree": 4}
    encoder, width = get_encoder(encoding, **options)
    directions = torch.nn.functional.normalize(points(31), dim=1)
    assert encoder(directions).shape == (31, width)
    if encoding != "identity":
        colour = BackgroundNetwork(encoding=encoding)(directions)
        assert colour.shape == (31, 3) and (colour > 0).all() and (colour < 1).all()


@pytest.mark.parametrize("name", ["hashgrid", "tiledgrid"])
def test_grids_are_found_by_name(name):
    encoder, width = get_encoder(name, num_levels=3, level_dim=2, log2_hashmap_size=8)
    assert width == 6 and encoder(points(5)).shape == (5, 6)


def test_unknown_encoding_is_named():
    with pytest.raises(ValueError, match="'wavelets'.*hashgrid"):
        get_encoder("wavelets")
