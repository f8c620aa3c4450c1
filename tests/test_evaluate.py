"""Videos and pictures: complete, readable, right, and not there when interrupted."""

from __future__ import annotations

import imageio.v3 as imageio
import numpy as np
import pytest
import torch
from torch.testing import assert_close

from nerf import evaluate
from nerf.cameras import generate_rays
from nerf.types import RenderOutput, Shading

RED, GREEN = torch.tensor([0.9, 0.1, 0.1]), torch.tensor([0.1, 0.8, 0.1])


class BallRenderer(torch.nn.Module):
    """A solid ball of radius 0.5, red where x > 0, green elsewhere, traced exactly."""

    def __init__(self, fail_at=None):
        super().__init__()
        self.fail_at, self.calls, self.modes = fail_at, 0, []

    def render(self, cameras, shading: Shading, *, generator=None, background=None, need_normals=False):
        if self.calls == self.fail_at:
            raise KeyboardInterrupt
        self.calls += 1
        self.modes.append((self.training, torch.is_grad_enabled()))
        rays = generate_rays(cameras, torch.tensor([-1.0, -1, -1, 1, 1, 1]), 0.01)
        middle = -(rays.origins * rays.directions).sum(1)
        square = 0.25 - (rays.origins + middle[:, None] * rays.directions).square().sum(1)
        hit = square > 0
        t = torch.where(hit, middle - square.clamp(min=0).sqrt(), 0)
        point = rays.origins + t[:, None] * rays.directions
        behind = torch.ones(3) if background is None else background
        color = torch.where(point[:, :1] > 0, RED, GREEN)
        shape = (len(cameras.c2w), cameras.height, cameras.width, -1)
        return RenderOutput(
            rgb=torch.where(hit[:, None], color, behind).view(shape),
            opacity=hit.float().view(shape),
            depth=t.view(shape),
            normal=(point / 0.5 * hit[:, None]).view(shape) if need_normals else None,
        )


def read(path):
    return imageio.imread(path, plugin="FFMPEG").astype(int)


def test_turntable_videos_have_every_frame_and_show_the_object(tmp_path):
    paths = evaluate.turntable(BallRenderer(), tmp_path, frames=8, height=64, width=48, elevation=0, progress=False)
    rgb, depth, normal = (read(paths[kind]) for kind in ("rgb", "depth", "normal"))
    assert rgb.shape == depth.shape == normal.shape == (8, 64, 48, 3)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "turntable_depth.mp4",
        "turntable_normal.mp4",
        "turntable_rgb.mp4",
    ]
    # 30: what H.264 with half the colour resolution may change in the middle of a flat area.
    assert abs(rgb[:, 2, 2] - 255).max() < 30
    assert abs(normal[:, 2, 2] - 255).max() < 30
    assert depth[:, 2, 2].max() < 30
    # The orbit starts in front, where +x is on the right, and goes towards +x: a quarter later all is red.
    assert abs(rgb[0, 32, 32] - RED.numpy() * 255).max() < 30
    assert abs(rgb[0, 32, 16] - GREEN.numpy() * 255).max() < 30
    assert abs(rgb[2, 32, 16] - RED.numpy() * 255).max() < 30
    assert abs(rgb[6, 32, 32] - GREEN.numpy() * 255).max() < 30
    # The normal in the middle of the first frame is +z.
    assert abs(normal[0, 32, 24] - [127, 127, 255]).max() < 30
    # Nearest in the middle: white there, and darker towards the outline.
    assert depth[0, 32, 24].min() > 225 and depth[0, 32, 4].max() < depth[0, 32, 24].min() - 50


def test_odd_sizes_become_even_by_repeating_the_border(tmp_path):
    picture = np.zeros((31, 17, 3), dtype=np.uint8)
    picture[:, 9:] = 255
    video = read(evaluate.write_video(tmp_path / "a.mp4", [picture] * 3))
    assert video.shape == (3, 32, 18, 3)
    assert video[:, :, 12:].min() > 225 and video[:, :, :6].max() < 30


def test_a_video_of_one_frame_of_one_pixel_is_possible(tmp_path):
    assert read(evaluate.write_video(tmp_path / "a.mp4", [np.full((1, 1, 3), 200, np.uint8)])).shape == (1, 2, 2, 3)


def test_a_video_without_frames_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="at least one frame"):
        evaluate.write_video(tmp_path / "a.mp4", [])
    with pytest.raises(ValueError, match="at least 1 frame"):
        evaluate.turntable(BallRenderer(), tmp_path, frames=0, progress=False)


def test_ctrl_c_leaves_no_file_and_keeps_the_old_ones(tmp_path):
    old = tmp_path / "turntable_rgb.mp4"
    old.write_bytes(b"the video of an earlier run")
    with pytest.raises(KeyboardInterrupt):
        evaluate.turntable(BallRenderer(fail_at=3), tmp_path, frames=6, height=32, width=32, progress=False)
    assert list(tmp_path.iterdir()) == [old]
    assert old.read_bytes() == b"the video of an earlier run"


def test_the_renderer_evaluates_without_gradients_and_trains_on_afterwards(tmp_path):
    renderer = BallRenderer()
    evaluate.turntable(renderer, tmp_path, frames=2, height=16, width=16, progress=False)
    assert renderer.modes == [(False, False)] * 2
    assert renderer.training and torch.is_grad_enabled()


def test_depth_is_scaled_by_the_object_and_not_by_stray_wisps():
    opacity = np.zeros((1, 100, 100), dtype=np.float32)
    depth = np.zeros_like(opacity)
    opacity[0, :, :50], depth[0, :, :50] = 1.0, np.linspace(2, 3, 50)
    opacity[0, :, 60:], depth[0, :, 60:] = 0.2, 0.2 * 9.0  # a far haze
    near, far = evaluate.depth_range(depth, opacity)
    assert near == pytest.approx(2, abs=0.03) and far == pytest.approx(3, abs=0.03)  # one column is 1/49
    picture = evaluate.depth_picture(depth, opacity, (near, far))
    assert picture[0, 0, 0, 0] == pytest.approx(1, abs=1e-3)
    assert picture[0, 0, 49, 0] == pytest.approx(evaluate.FARTHEST_GREY, abs=1e-3)
    assert picture[0, 0, 55, 0] == 0


def test_an_empty_scene_gives_black_depth_and_no_warning(tmp_path):
    nothing = np.zeros((2, 4, 4), dtype=np.float32)
    with np.errstate(all="raise"):
        assert evaluate.depth_picture(nothing, nothing, evaluate.depth_range(nothing, nothing)).max() == 0


def test_six_views_show_each_side_once(tmp_path):
    paths = evaluate.six_views(BallRenderer(), tmp_path, height=32, width=32, progress=False)
    middle = {side: imageio.imread(paths[side])[16, 20] / 255 for side in evaluate.SIDES}
    # Right of the middle: +x in front, -x behind, -z on the left side (+x).
    expected = {"front": RED, "left": RED, "back": GREEN, "right": GREEN}
    for side, color in expected.items():
        assert_close(torch.from_numpy(middle[side]).float(), color, atol=0.01, rtol=0)  # 8 bits
    assert imageio.imread(paths["sheet"]).shape == (64, 192, 3)


def test_the_background_asked_for_is_behind_the_object(tmp_path):
    blue = torch.tensor([0.0, 0.0, 1.0])
    paths = evaluate.six_views(BallRenderer(), tmp_path, height=16, width=16, background=blue, progress=False)
    assert imageio.imread(paths["front"])[0, 0].tolist() == [0, 0, 255]
