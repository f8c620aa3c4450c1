"""CIEDE2000 against the pairs its authors published (Sharma, Wu, Dalal 2005), and L*a*b* of known colours."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from toybox.colour import ciede2000, lab

PAIRS = [  # first, second, difference; the first six cross the blue corner, the next three turn hue through 180 degrees
    ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
    ((50, 3.1571, -77.2803), (50, 0, -82.7485), 2.8615),
    ((50, 2.8361, -74.0200), (50, 0, -82.7485), 3.4412),
    ((50, -1.3802, -84.2814), (50, 0, -82.7485), 1.0000),
    ((50, -1.1848, -84.8006), (50, 0, -82.7485), 1.0000),
    ((50, -0.9009, -85.5211), (50, 0, -82.7485), 1.0000),
    ((50, 0, 0), (50, -1, 2), 2.3669),
    ((50, 2.5, 0), (50, 0, -2.5), 4.3065),
    ((50, 2.5, 0), (73, 25, -18), 27.1492),
    ((50, 2.5, 0), (61, -5, 29), 22.8977),
    ((50, 2.5, 0), (56, -27, -3), 31.9030),
    ((50, 2.5, 0), (58, 24, 15), 19.4535),
    ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
    ((2.0776, 0.0795, -1.1350), (0.9033, -0.0636, -0.5514), 0.9082),
]


@pytest.mark.parametrize("first, second, difference", PAIRS)
def test_differences_are_the_published_ones_both_ways(first, second, difference):
    first, second = (torch.tensor(v, dtype=torch.float64) for v in (first, second))
    # half of the last published digit
    assert float(ciede2000(first, second)) == pytest.approx(difference, abs=5e-5)
    assert float(ciede2000(second, first)) == pytest.approx(difference, abs=5e-5)


def test_equal_colours_differ_by_nothing_and_shapes_broadcast():
    colours = torch.rand(5, 1, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    grid = ciede2000(lab(colours), lab(colours).transpose(0, 1))
    assert grid.shape == (5, 5)
    assert_close(grid.diagonal(), torch.zeros(5, dtype=torch.float64), atol=1e-6, rtol=0)
    assert_close(grid, grid.T)
    assert (grid + torch.eye(5) > 0).all() and grid.isfinite().all()


@pytest.mark.parametrize(
    "rgb, expected",
    [  # sRGB under D65, as tabulated by Lindbloom
        ((1, 1, 1), (100, 0, 0)),
        ((0, 0, 0), (0, 0, 0)),
        ((1, 0, 0), (53.2408, 80.0925, 67.2032)),
        ((0, 1, 0), (87.7347, -86.1827, 83.1793)),
        ((0, 0, 1), (32.2970, 79.1875, -107.8602)),
        ((1, 1, 0), (97.1393, -21.5537, 94.4780)),
    ],
)
def test_lab_of_white_black_and_the_primaries(rgb, expected):
    found = lab(torch.tensor(rgb, dtype=torch.float32))
    # 0.02: tables differ in the last digits of the matrix and the white point
    assert_close(found, torch.tensor(expected, dtype=torch.float64), atol=0.02, rtol=0)


def test_greys_have_no_hue_and_rise_with_the_level():
    found = lab(torch.linspace(0, 1, 64)[:, None].expand(-1, 3))
    assert found[:, 1:].abs().max() < 0.02  # the same digits of the white point
    assert (found[1:, 0] > found[:-1, 0]).all()
