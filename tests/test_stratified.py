"""The parts of the stratified renderer."""

import torch
from torch.testing import assert_close

from nerf.renderers.stratified import composite, interval_edges, sample_pdf, stratify
from renderer_case import seed


def test_strata_hold_one_sample_each():
    near, far = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 2.0])
    t = stratify(near, far, 10, seed())
    assert torch.equal(((t[0] - 1.0) / 0.2).long(), torch.arange(10))
    assert torch.all(t[1] == 2.0)  # a ray that misses


def test_intervals_add_up_to_the_ray():
    near, far = torch.tensor([1.0]), torch.tensor([3.0])
    edges = interval_edges(stratify(near, far, 7, seed()), near, far)
    assert_close(edges.diff(dim=1).sum(1), far - near)


def test_importance_samples_go_where_the_weight_is():
    edges = torch.linspace(0.0, 1.0, 5).expand(1, 5)
    t = sample_pdf(edges, torch.tensor([[0.0, 3.0, 0.0, 1.0]]), 1000, seed())
    share = torch.histc(t, 4, 0.0, 1.0) / 1000
    assert_close(share, torch.tensor([0.0, 0.75, 0.0, 0.25]), atol=2e-3, rtol=0)  # stratified: one draw in a thousand
    assert (t.diff(dim=1) >= 0).all()


def test_importance_without_weight_is_uniform():
    t = sample_pdf(torch.linspace(0.0, 1.0, 5).expand(1, 5), torch.zeros(1, 4), 4, None)
    assert_close(t, torch.tensor([[0.125, 0.375, 0.625, 0.875]]))


def test_weights_follow_the_product_of_transmittances():
    sigmas, lengths = torch.rand(3, 6, generator=seed()) * 5, torch.rand(3, 6, generator=seed(1))
    expected, through = torch.zeros(3, 6), torch.ones(3)
    for i in range(6):
        alpha = 1 - torch.exp(-sigmas[:, i] * lengths[:, i])
        expected[:, i] = through * alpha
        through = through * (1 - alpha)
    assert_close(composite(sigmas, lengths), expected)


def test_what_is_thin_before_a_wall_is_not_counted_twice():
    assert composite(torch.tensor([[0.003, 1e5]]), torch.ones(1, 2)).sum() <= 1
