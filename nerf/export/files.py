"""Files that are complete or not there: written under another name in the same folder, then renamed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """A name to write to, of the same suffix; renamed to `path` at the end, removed after an error or Ctrl-C."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_bytes(path: Path | str, data: bytes) -> None:
    """Write a file whole or not at all."""
    with atomic_path(path) as partial:
        partial.write_bytes(data)


def write_json(path: Path | str, value: Any) -> None:
    """`write_bytes` of a value as JSON; what JSON does not know, paths for one, as its text."""
    write_bytes(path, (json.dumps(value, indent=2, default=str) + "\n").encode())


def to_uint8(picture: Tensor) -> np.ndarray:
    """[..., 3] in [0, 1] -> uint8, rounded; values outside are clipped, NaN becomes 0."""
    return (picture.detach().cpu().float().nan_to_num().clamp(0, 1) * 255 + 0.5).to(torch.uint8).numpy()


def png_bytes(picture: np.ndarray) -> bytes:
    """Encode an RGB picture, uint8. [H, W, 3]"""
    import cv2

    done, data = cv2.imencode(".png", cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2BGR))
    if not done:
        raise RuntimeError(f"OpenCV could not encode a PNG of shape {picture.shape}")
    return data.tobytes()
