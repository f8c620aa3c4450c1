"""Colour differences as people see them: CIEDE2000 (Sharma, Wu, Dalal 2005, doi:10.1002/col.20070)."""

from __future__ import annotations

import torch
from torch import Tensor

_TO_XYZ = ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750), (0.0193339, 0.1191920, 0.9503041))
_WHITE = (0.95047, 1.0, 1.08883)  # D65


def lab(rgb: Tensor) -> Tensor:
    """sRGB in [0, 1] -> CIE L*a*b* under D65. [..., 3]"""
    rgb = rgb.double()
    linear = torch.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    xyz = linear @ linear.new_tensor(_TO_XYZ).T / linear.new_tensor(_WHITE)
    f = torch.where(xyz > (6 / 29) ** 3, xyz.clamp(min=1e-12) ** (1 / 3), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = f.unbind(-1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


def ciede2000(first: Tensor, second: Tensor) -> Tensor:
    """Difference of two L*a*b* colours; 1 is just noticeable. [..., 3], [..., 3] -> [...]"""
    (l1, a1, b1), (l2, a2, b2) = first.unbind(-1), second.unbind(-1)
    chroma7 = ((torch.hypot(a1, b1) + torch.hypot(a2, b2)) / 2) ** 7
    g = 0.5 * (1 - (chroma7 / (chroma7 + 25**7)).sqrt())
    a1, a2 = a1 * (1 + g), a2 * (1 + g)
    c1, c2 = torch.hypot(a1, b1), torch.hypot(a2, b2)
    h1, h2 = (torch.rad2deg(torch.atan2(b, a)) % 360 for a, b in ((a1, b1), (a2, b2)))
    grey = c1 * c2 == 0
    turn = (h2 - h1 + 180) % 360 - 180
    turn = torch.where(grey, torch.zeros_like(turn), turn)
    dl, dc, dh = l2 - l1, c2 - c1, 2 * (c1 * c2).sqrt() * torch.sin(torch.deg2rad(turn) / 2)
    lightness, c = (l1 + l2) / 2, (c1 + c2) / 2
    h = torch.where(grey, h1 + h2, h1 + turn / 2)
    cos = lambda factor, offset: torch.cos(torch.deg2rad(factor * h + offset))  # noqa: E731
    t = 1 - 0.17 * cos(1, -30) + 0.24 * cos(2, 0) + 0.32 * cos(3, 6) - 0.20 * cos(4, -63)
    sl = 1 + 0.015 * (lightness - 50) ** 2 / (20 + (lightness - 50) ** 2).sqrt()
    sc, sh = 1 + 0.045 * c, 1 + 0.015 * c * t
    theta = 30 * torch.exp(-(((h % 360 - 275) / 25) ** 2))
    rt = -2 * (c**7 / (c**7 + 25**7)).sqrt() * torch.sin(torch.deg2rad(2 * theta))
    dl, dc, dh = dl / sl, dc / sc, dh / sh
    return (dl * dl + dc * dc + dh * dh + rt * dc * dh).clamp(min=0).sqrt()
