"""The training pictures: repeatable, in their ranges, lit and composed as they say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from toybox import pictures
from toybox.captions import is_held_out, parse

RED = (0.9, 0.1, 0.1)


def test_training_pictures_follow_from_the_seed():
    first, again = (pictures.sample(np.random.default_rng(3), views=1) for _ in range(2))
    other = pictures.sample(np.random.default_rng(4), views=1)
    assert (first.images == again.images).all() and (first.azimuth == again.azimuth).all()
    assert not (first.images == other.images).all()


def test_training_pictures_have_their_shapes_and_ranges():
    made = pictures.sample(np.random.default_rng(0), views=2)
    assert made.images.shape == (2, 3, pictures.SIZE, pictures.SIZE) and made.images.dtype == np.uint8
    for column in (made.captions, made.azimuth, made.elevation):
        assert column.shape == (2,)
    assert (np.abs(made.azimuth) <= 180).all() and (np.abs(made.elevation) <= 90).all()
    assert made.azimuth[0] != made.azimuth[1] and made.captions[0] == made.captions[1]
    assert not is_held_out(parse(str(made.captions[0])))


def test_of_what_is_its_own_mirror_image_only_the_left_half_is_shown(monkeypatch):
    def azimuths(name):
        monkeypatch.setattr(pictures, "random_caption", lambda rng, held_out: parse(f"a {name}"))
        return pictures.sample(np.random.default_rng(0), views=16).azimuth

    assert azimuths("frog").min() >= 0 and azimuths("frog").max() > 120
    assert azimuths("mug").min() < -90 and azimuths("mug").max() > 90


def test_a_set_of_pictures_is_made_once_and_read_again(tmp_path):
    path = tmp_path / "pictures.npz"
    made = pictures.make(path, 2, seed=5)
    assert made.images.shape == (6, 3, pictures.SIZE, pictures.SIZE) and len(set(made.captions.tolist())) == 2
    one = pictures.sample(np.random.default_rng((5, 1)))
    assert (made.images[3:] == one.images).all()
    stamp = path.stat().st_mtime_ns
    assert (pictures.make(path, 2, seed=5).images == made.images).all() and path.stat().st_mtime_ns == stamp


def test_shading_is_lambert_with_ambient_light_and_nothing_where_nothing_is():
    buffers = torch.zeros(1, 3, 8)
    buffers[0, :2, :3], buffers[0, :2, 3] = torch.tensor([0.8, 0.4, 0.2]), 1
    buffers[0, 0, 4:7], buffers[0, 1, 4:7] = torch.tensor([0.0, 0, 1]), torch.tensor([0.0, 0, -1])
    light = torch.tensor([0.0, 0.6, 0.8])
    albedo, lit = (pictures.shade(buffers, ambient, light)[0] for ambient in (1.0, 0.3))
    assert_close(albedo, torch.tensor([[0.8, 0.4, 0.2]] * 2 + [[0.0] * 3]))
    factor = 0.3 + 0.7 * 0.8  # towards the light, and away from it only the ambient part
    assert_close(lit, torch.tensor([[0.8 * factor, 0.4 * factor, 0.2 * factor], [0.24, 0.12, 0.06], [0.0] * 3]))


def kinds(look, monkeypatch):
    """Of 300 pictures of a red wall: shares that are white, lit, and before a colour."""
    seen, buffers, side = [], torch.zeros(300, 1, 1, 8), np.zeros(300)
    buffers[..., :3], buffers[..., 3], buffers[..., 6] = torch.tensor(RED), 1, 1
    monkeypatch.setattr(pictures, "trace", lambda solid, rig, size: buffers)
    monkeypatch.setattr(pictures, "compose", lambda colour, hit, behind: seen.append((colour, behind)) or colour)
    pictures.show(None, side, side, np.random.default_rng(0), look)
    colours, behind = torch.stack([colour[0, 0] for colour, _ in seen]), torch.stack([one for _, one in seen])
    white, lit = colours.std(1) < 1e-6, colours[:, 0] < RED[0] - 1e-3
    return [share.float().mean().item() for share in (white, lit & ~white, behind.std(1) > 1e-3)]


@pytest.mark.parametrize("look", [pictures.Look(), pictures.Look(0.5, 0.3, 1.0), pictures.Look(0, 1, 0)])
def test_pictures_are_lit_white_and_before_colours_as_often_as_the_look_says(look, monkeypatch):
    white, lit, coloured = kinds(look, monkeypatch)
    assert white == pytest.approx(look.textureless, abs=0.08) and coloured == pytest.approx(look.coloured, abs=0.08)
    assert lit == pytest.approx(look.lambertian, abs=0.08)


def test_shares_that_are_none_are_refused():
    for wrong in ((0.7, 0.5, 0), (0, 0, 1.2), (-0.1, 0, 0)):
        with pytest.raises(ValueError, match="shares must lie in"):
            pictures.Look(*wrong)


def test_half_a_pixel_shows_half_the_background():
    colour, hit = torch.zeros(2, 2, 3), torch.zeros(2, 2, 1)
    colour[0], hit[0] = torch.tensor(RED), 1
    assert_close(pictures.compose(colour, hit, torch.ones(3))[0, 0], (torch.tensor(RED) + 1) / 2)
