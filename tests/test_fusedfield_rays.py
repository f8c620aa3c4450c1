"""The fused field along rays: what is reached, its values and gradients, and where a ray ends."""

import pytest
import torch

import cases
import extension
import raymarching
from field_case import Case, assert_near, points


@pytest.fixture(autouse=True)
def native():
    assert extension.load("fusedfield"), "the operators under test could not be built"


FOG = {"blob_density": 2.0, "blob_radius": 1.5}  # dense enough everywhere to end rays


def rays(count, longest=40):
    """Rays of 0 to `longest` samples anywhere in the box: positions [M, 3], lengths [M], packed_info [N, 2]."""
    *_, ts, packed_info = cases.packed_samples(count, longest=longest)
    return points(len(ts)), ts[:, 1], packed_info


def along(case, function, bundle, limit, **options):
    """kept, counts, sigma, albedo, and the gradients of the table, weights and biases for random cotangents."""
    x, *rest = bundle
    indices = []

    def values(x, *field):
        *of_samples, kept, counts = function(x, *rest, limit, *field, **FOG, **options)
        indices.extend((kept, counts))
        return of_samples

    results = case.derivatives(values, x)
    return *indices, *results


@pytest.mark.parametrize("limit", [0.5, torch.inf])
@pytest.mark.parametrize("count", [0, 1, 31, 64, 257])  # around a task; 257 rays have more samples than a run
def test_rays_match_reference(path, count, limit):
    case, bundle = Case(levels=2, hidden=(16,)), rays(count)
    kept, counts, *actual = along(case, case.query_rays, bundle, limit)
    expected_kept, expected_counts, *expected = along(case, case.reference_rays, bundle, limit)
    assert kept.dtype == torch.int64 and counts.dtype == torch.int32
    assert torch.equal(kept, expected_kept) and torch.equal(counts, expected_counts)
    assert_near(actual, expected, tolerance=1e-4)  # float32 sums of thousands of points a row
    assert count < 31 or limit > 1 or len(kept) < 0.8 * len(bundle[0])


@pytest.mark.parametrize("max_level", [None, 0.5])
def test_samples_of_rays_and_their_gradients_are_those_of_the_query_bit_for_bit(path, max_level):
    case, bundle = Case(), rays(600)
    kept, _, *of_rays = along(case, case.query_rays, bundle, 1.0, max_level=max_level)
    assert 4080 < len(kept) < len(bundle[0])  # more than one run, and not all
    of_points = case.derivatives(case.query, bundle[0][kept], max_level=max_level, **FOG)
    assert all(torch.equal(a, b) for a, b in zip(of_rays, of_points, strict=True))


@pytest.mark.parametrize("limit", [-1, 0, 2.5, 3, 14, 15, 16, 17, 31, 38, 39, 100])  # around rounds of 16, and the end
def test_a_ray_through_constant_fog_has_one_sample_more_than_its_limit(limit):
    case = Case(levels=1)
    layers = [(torch.zeros_like(weight), torch.zeros_like(bias)) for weight, bias in case.layers]
    layers[-1][1][0] = 1.0
    packed_info = torch.tensor([[0, 40], [40, 0], [40, 20]], dtype=torch.int32)
    bundle = points(60), torch.ones(60), packed_info, limit
    options = {"activation": "none", "blob_density": 0.0}
    sigma, _, kept, counts = case.query_rays(*bundle, case.table, layers, **options)
    expected = [min(count, int(limit) + 1) for count in (40, 0, 20)]
    assert counts.tolist() == expected
    assert kept.tolist() == [*range(expected[0]), *range(40, 40 + expected[2])]
    assert (sigma == 1).all()


def test_a_ray_may_be_longer_than_many_rounds(path):
    case, x = Case(levels=2), points(1000)
    packed_info = torch.tensor([[0, 993], [993, 7]], dtype=torch.int32)
    sigma, _, kept, counts = case.query_rays(x, torch.ones(1000), packed_info, torch.inf, case.table, case.layers)
    assert torch.equal(kept, torch.arange(1000)) and counts.tolist() == [993, 7]
    assert torch.equal(sigma, case.query(x, case.table, case.layers)[0])


def test_samples_that_are_not_reached_have_no_part_in_the_gradient_of_a_blend():
    case, bundle = Case(), rays(200, longest=60)
    _, lengths, packed_info = bundle
    ts = torch.stack([lengths.cumsum(0), lengths], 1)
    options = {"blob_density": 5.0, "blob_radius": 3.0}  # dense enough to end most rays

    def blend_of_all(x, *field):
        return raymarching.composite_rays_train(*case.query(x, *field, **options), ts, packed_info, 1e-4)[1:]

    def blend_of_reached(x, *field):
        *values, kept, counts = case.query_rays(x, lengths, packed_info, 9.3, *field, **options)
        assert len(kept) < 0.8 * len(x)
        packed = torch.stack([counts.cumsum(0).int() - counts, counts], 1)
        return raymarching.composite_rays_train(*values, ts[kept], packed, 1e-4)[1:]

    actual, expected = (case.derivatives(function, bundle[0]) for function in (blend_of_reached, blend_of_all))
    assert_near(actual[:3], expected[:3], tolerance=0)
    assert_near(actual[3:], expected[3:])


def test_a_density_that_is_no_number_ends_no_ray(path):
    case, (x, lengths, packed_info) = Case(), rays(5)
    first, count = packed_info[2].tolist()
    expected = case.query_rays(x, lengths, packed_info, 0.5, case.table, case.layers, **FOG)[-1]
    assert expected[2] < count
    expected[2] = count
    x[first] = torch.nan
    counts = case.query_rays(x, lengths, packed_info, 0.5, case.table, case.layers, **FOG)[-1]
    assert torch.equal(counts, expected)


def test_no_bit_along_rays_depends_on_the_number_of_threads():
    case, bundle = Case(), rays(1000)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(along(case, case.query_rays, bundle, 1.0))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_rays_in_double_precision_take_the_reference():
    case, (x, lengths, packed_info) = Case(levels=2), rays(9)
    layers = [(weight.double(), bias.double()) for weight, bias in case.layers]
    given = x.double(), lengths, packed_info, 0.5, case.table.double(), layers
    actual, expected = case.query_rays(*given), case.reference_rays(*given)
    assert actual[0].dtype == torch.float64
    assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


@pytest.mark.parametrize(
    "packed_info", [[[0, 11]], [[-1, 2]], [[0, -1]], [[0, 4], [3, 2]], [[5, 2], [0, 2]]]
)  # beyond the samples, before them, negative, two rays with one sample, in another order
def test_rays_that_do_not_follow_each_other_are_refused(packed_info):
    case = Case(levels=1)
    with pytest.raises(RuntimeError, match="packed_info: ray"):
        packed = torch.tensor(packed_info, dtype=torch.int32)
        case.query_rays(points(10), torch.ones(10), packed, 1.0, case.table, case.layers)


def test_lengths_and_rays_of_another_shape_are_named():
    case, (x, lengths, packed_info) = Case(levels=1), rays(3)
    for wrong in ((lengths[1:], packed_info), (lengths, packed_info[0])):
        with pytest.raises(ValueError, match="a length for each"):
            case.query_rays(x, *wrong, 1.0, case.table, case.layers)


def test_the_operator_along_rays_passes_opcheck_and_keeps_nothing_without_gradients():
    case, bundle = Case(levels=2, hidden=(16,)), rays(5)
    parameters = torch.cat([tensor.flatten() for layer in case.layers for tensor in layer])
    layout = (case.offsets, case.resolutions, True, False, True, 2, [4, 16, 4], 1.5, 2.0, 4.0, 1, False)
    op = torch.ops.fusedfield.field_query_rays
    leaves = case.table.clone().requires_grad_(), parameters.clone().requires_grad_()
    torch.library.opcheck(op.default, (*bundle, 0.5, *leaves, *layout, 4, True))
    torch.library.opcheck(op.default, (*bundle, 0.5, case.table, parameters, *layout, 1, False))
    assert op(*bundle, 0.5, case.table, parameters, *layout, 4, False)[-1].numel() == 0
