"""What a trained scene looks like: turntable videos and the six sides.

A renderer here is anything with `render(cameras, shading, background=..., need_normals=...)` that returns a
RenderOutput whose depth and normals are premultiplied by opacity (nerf/renderers/base.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from nerf.cameras import orbit_views
from nerf.cameras import six_views as six_cameras
from nerf.export.files import atomic_path, png_bytes, to_uint8, write_bytes
from nerf.types import Cameras, RenderOutput, Shading

SIDES = ("front", "left", "back", "right", "top", "bottom")  # of the object, in the order of nerf.cameras.six_views
FARTHEST_GREY = 0.15  # so that the far side of the object still differs from the black behind it


def normal_picture(out: RenderOutput) -> Tensor:
    """World-space normals as colours, (n + 1) / 2, on white. [B, H, W, 3] in [0, 1]"""
    normal = torch.zeros_like(out.rgb) if out.normal is None else out.normal
    return (0.5 * normal + 1 - 0.5 * out.opacity).clamp(0, 1)


def depth_range(depth: np.ndarray, opacity: np.ndarray) -> tuple[float, float]:
    """Nearest and farthest distance of the object over all frames, without the half percent at either end.

    `depth` is premultiplied by `opacity`; only pixels that are mostly object count. Any shape; (0, 1) without any.
    """
    solid = opacity > max(0.05, 0.9 * float(opacity.max(initial=0)))
    if not solid.any():
        return 0.0, 1.0
    near, far = np.quantile((depth[solid] / opacity[solid]).astype(np.float32), (0.005, 0.995))
    return float(near), float(far)


def depth_picture(depth: np.ndarray, opacity: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    """Grey by distance, near is white, fading to black where nothing is. [..., H, W] -> [..., H, W, 3] in [0, 1]"""
    near, far = limits
    share = (far - depth / np.maximum(opacity, 1e-4)) / max(far - near, 1e-6)
    grey = (FARTHEST_GREY + (1 - FARTHEST_GREY) * share.clip(0, 1)) * opacity
    return np.repeat(grey[..., None], 3, axis=-1).astype(np.float32)


def even(picture: np.ndarray) -> np.ndarray:
    """The last row and column repeated where a side is odd: H.264 in 4:2:0 wants even sides. [H, W, 3]"""
    return np.pad(picture, ((0, picture.shape[0] % 2), (0, picture.shape[1] % 2), (0, 0)), mode="edge")


@contextmanager
def video_writer(path: Path | str, height: int, width: int, fps: int = 25) -> Iterator:
    """A function that appends an RGB frame, uint8 [H, W, 3], to an mp4 that appears at `path` when complete.

    After an error or Ctrl-C inside the block there is no file, and one that was there before is untouched.
    """
    import imageio_ffmpeg

    with atomic_path(path) as partial:
        # crf 18: no visible loss. yuv420p and faststart: plays in every browser, from the first byte on.
        options = ["-crf", "18", "-preset", "medium", "-movflags", "+faststart"]
        size = (width + width % 2, height + height % 2)
        frames = imageio_ffmpeg.write_frames(
            str(partial),
            size,
            fps=fps,
            codec="libx264",
            pix_fmt_out="yuv420p",
            quality=None,
            macro_block_size=2,
            output_params=options,
            ffmpeg_log_level="error",
        )
        frames.send(None)
        try:
            yield lambda picture: frames.send(np.ascontiguousarray(even(picture)))
        finally:
            frames.close()


def write_video(path: Path | str, pictures: Iterable[np.ndarray], fps: int = 25) -> Path:
    """Write frames, uint8 [H, W, 3] each and at least one, to an mp4."""
    pictures = iter(pictures)
    first = next(pictures, None)
    if first is None:
        raise ValueError(f"a video needs at least one frame, got none for {path}")
    with video_writer(path, *first.shape[:2], fps=fps) as append:
        append(first)
        for picture in pictures:
            append(picture)
    return Path(path)


def _device(renderer) -> torch.device:
    """Where the renderer computes: where its parameters or buffers are."""
    if isinstance(renderer, torch.nn.Module):
        for tensor in (*renderer.parameters(), *renderer.buffers()):
            return tensor.device
    return torch.device("cpu")


@contextmanager
def _evaluating(renderer) -> Iterator[None]:
    """No gradients, and modules in evaluation mode; as before afterwards."""
    training = isinstance(renderer, torch.nn.Module) and renderer.training
    if training:
        renderer.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        if training:
            renderer.train()


def _each(renderer, cameras: Cameras, background: Tensor | None, shading: Shading | None) -> Iterator[RenderOutput]:
    """Render one view at a time."""
    if background is not None:
        background = background.to(cameras.c2w.device)
    for index in range(len(cameras.c2w)):
        one = Cameras(cameras.c2w[index : index + 1], cameras.fovy[index : index + 1], cameras.height, cameras.width)
        yield renderer.render(one, shading or Shading(), background=background, need_normals=True)


def turntable(
    renderer,
    folder: Path | str,
    *,
    frames: int = 100,
    height: int = 256,
    width: int = 256,
    radius: float = 3.2,
    elevation: float = 15.0,
    fovy: float = 20.0,
    name: str = "turntable",
    fps: int = 25,
    background: Tensor | None = None,
    shading: Shading | None = None,
    progress: bool = True,
) -> dict[str, Path]:
    """Once around the object: `name`_rgb.mp4, `name`_normal.mp4 and `name`_depth.mp4 in `folder`.

    Depth is grey over the range the object covers in the whole video, so it does not flicker. All three files
    appear together when complete; Ctrl-C leaves none of them.

    Args:
        radius, elevation, fovy: Of the orbit, in scene units and degrees.
        background: Colour behind the object, [3] in [0, 1]; None: what the renderer has there.
        shading: None: albedo.

    Returns:
        kind ("rgb", "depth", "normal") -> path.
    """
    if frames < 1 or height < 1 or width < 1:
        raise ValueError(f"a turntable needs at least 1 frame of 1 x 1 pixels, got {frames} of {height} x {width}")
    device = _device(renderer)
    _, cameras = orbit_views(
        frames, radius=radius, elevation=elevation, fovy=fovy, height=height, width=width, device=device
    )
    paths = {kind: Path(folder) / f"{name}_{kind}.mp4" for kind in ("rgb", "depth", "normal")}
    # Half precision: 100 frames of 512 x 512 are 50 MB each.
    depth = np.zeros((frames, height, width), dtype=np.float16)
    opacity = np.zeros((frames, height, width), dtype=np.float16)
    with _evaluating(renderer), ExitStack() as files:
        append = {kind: files.enter_context(video_writer(path, height, width, fps)) for kind, path in paths.items()}
        views = _each(renderer, cameras, background, shading)
        bar = tqdm(views, desc=f"turntable {width}x{height}", total=frames, unit="frame", disable=not progress)
        for index, out in enumerate(bar):
            append["rgb"](to_uint8(out.rgb[0]))
            append["normal"](to_uint8(normal_picture(out)[0]))
            depth[index] = out.depth[0, ..., 0].cpu().numpy()
            opacity[index] = out.opacity[0, ..., 0].cpu().numpy()
        limits = depth_range(depth, opacity)
        for index in range(frames):
            picture = depth_picture(depth[index].astype(np.float32), opacity[index].astype(np.float32), limits)
            append["depth"](to_uint8(torch.from_numpy(picture)))
    return paths


def six_views(
    renderer,
    folder: Path | str,
    *,
    height: int = 256,
    width: int = 256,
    radius: float = 3.2,
    fovy: float = 20.0,
    name: str = "six_views",
    background: Tensor | None = None,
    shading: Shading | None = None,
    progress: bool = True,
) -> dict[str, Path]:
    """The object from six sides: `name`_front.png and so on, and `name`.png with all of them above their normals.

    Returns:
        side ("front", "left", "back", "right", "top", "bottom") -> path, and "sheet" -> path.
    """
    device = _device(renderer)
    _, cameras = six_cameras(radius=radius, fovy=fovy, height=height, width=width, device=device)
    paths, colors, normals = {}, [], []
    with _evaluating(renderer):
        views = _each(renderer, cameras, background, shading)
        bar = tqdm(views, desc="six views", total=len(SIDES), unit="view", disable=not progress)
        for side, out in zip(SIDES, bar, strict=True):
            colors.append(to_uint8(out.rgb[0]))
            normals.append(to_uint8(normal_picture(out)[0]))
            paths[side] = Path(folder) / f"{name}_{side}.png"
            write_bytes(paths[side], png_bytes(colors[-1]))
    paths["sheet"] = Path(folder) / f"{name}.png"
    write_bytes(paths["sheet"], png_bytes(np.concatenate([np.concatenate(row, axis=1) for row in (colors, normals)])))
    return paths


def contact_sheet(
    renderer,
    path: Path | str,
    *,
    views: int = 8,
    size: int = 128,
    radius: float = 3.2,
    elevation: float = 15.0,
    fovy: float = 20.0,
    background: Tensor | None = None,
    shading: Shading | None = None,
) -> Path:
    """One PNG of `views` pictures around the object, front first, above their normals."""
    device = _device(renderer)
    _, cameras = orbit_views(
        views, radius=radius, elevation=elevation, fovy=fovy, height=size, width=size, device=device
    )
    with _evaluating(renderer):
        outs = list(_each(renderer, cameras, background, shading))
    rows = [torch.cat([out.rgb[0] for out in outs], 1), torch.cat([normal_picture(out)[0] for out in outs], 1)]
    write_bytes(path, png_bytes(to_uint8(torch.cat(rows))))
    return Path(path)
