"""The fused field in bf16: its reference rounds the same numbers, and sums them in another order."""

import pytest
import torch

import extension
import fusedfield
from field_case import Case, assert_near, points
from test_fusedfield_rays import FOG, along, rays


@pytest.fixture(autouse=True)
def native():
    assert extension.load("fusedfield"), "the operators under test could not be built"
    if not torch.ops.fusedfield.has_bf16():
        pytest.skip("this processor does not multiply bf16")


def assert_nearly_all_near(actual, expected, tolerance=3e-3):
    """By their norm: a sum in another order is rounded to another bf16 once in a while, 0.4 % away."""
    for a, b in zip(actual, expected, strict=True):
        assert a.shape == b.shape and a.isfinite().all()
        assert (a - b).norm() <= tolerance * b.norm() + 1e-6


@pytest.mark.parametrize("levels", [1, 3, 8, 16])
@pytest.mark.parametrize("hidden", [(64, 64), (16,), (40, 24), (1, 64), (96, 128), (256, 32, 48, 16, 16, 16, 16)])
def test_field_and_its_gradients_match_reference(levels, hidden):
    case, x = Case(levels, hidden, mixed=True), points(300)
    assert_nearly_all_near(case.derivatives(case.query, x), case.derivatives(case.reference, x))


@pytest.mark.parametrize("count", [0, 1, 31, 48, 49, 257, 4081, 30000])  # around a vector, a tile, a run, a chunk
def test_sizes_match_reference(count):
    case, x = Case(levels=2, hidden=(16,), mixed=True), points(count)
    assert_nearly_all_near(case.derivatives(case.query, x), case.derivatives(case.reference, x))


def test_density_alone_and_levels_held_back_match_reference():
    case, x = Case(mixed=True), points(300)
    options = {"outputs": 1, "max_level": 0.5, "activation": "softplus"}
    assert_nearly_all_near(case.derivatives(case.query, x, **options), case.derivatives(case.reference, x, **options))


def test_points_outside_encode_to_zeros_and_give_no_gradient():
    case, x = Case(mixed=True), points(100)
    x[::3] += 4
    assert_nearly_all_near(case.derivatives(case.query, x), case.derivatives(case.reference, x))
    assert (case.derivatives(case.query, x[::3])[2] == 0).all()


def test_rounding_changes_little_and_something():
    exact, rounded, x = Case(), Case(mixed=True), points(3000)
    of_exact, of_rounded = exact.derivatives(exact.query, x), rounded.derivatives(rounded.query, x)
    for a, b in zip(of_rounded, of_exact, strict=True):
        assert torch.cosine_similarity(a.flatten(), b.flatten(), 0) > 0.99 and not torch.equal(a, b)


def test_samples_of_rays_and_their_gradients_are_those_of_the_query_bit_for_bit():
    case, bundle = Case(mixed=True), rays(600)
    kept, _, *of_rays = along(case, case.query_rays, bundle, 1.0)
    assert 4080 < len(kept) < len(bundle[0])  # more than one run, and not all
    of_points = case.derivatives(case.query, bundle[0][kept], **FOG)
    assert all(torch.equal(a, b) for a, b in zip(of_rays, of_points, strict=True))


def test_results_depend_neither_on_the_samples_around_nor_on_the_number_of_threads():
    case, x = Case(mixed=True), points(60000)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(case.derivatives(case.query, x))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    part = case.query(x[77:130], case.table, case.layers)
    assert all(torch.equal(a[77:130], b) for a, b in zip(results[0], part, strict=False))


@pytest.mark.parametrize("path", ["baseline", "avx2"])
def test_without_bf16_the_reference_serves(monkeypatch, path):
    monkeypatch.setenv("TADPOLE_CPU_PATH", path)
    case, x = Case(mixed=True), points(50)
    assert not fusedfield.serves(x, case.table, case.layers, mixed=True)
    assert_near(case.derivatives(case.query, x), case.derivatives(case.reference, x), tolerance=0)
