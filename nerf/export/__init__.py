"""From a trained field to mesh files: extract, clean, decimate, unwrap, bake, write."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from nerf.export.glb import save_glb
from nerf.export.obj import save_obj
from nerf.export.ply import save_ply
from nerf.export.texture import bake, seen_color
from nerf.extract import DensityVolume, find_threshold, occupied_cells
from nerf.mesh import clean, decimate, main_component, smooth
from nerf.types import Mesh
from nerf.unwrap import unwrap

__all__ = ["FORMATS", "MeshOptions", "bake", "occupied_cells", "save_glb", "save_mesh", "save_obj", "save_ply"]

# name -> function(folder, mesh); a new format is one line here.
FORMATS: dict[str, Callable[[Path, Mesh], object]] = {
    "obj": save_obj,
    "glb": lambda folder, mesh: save_glb(folder / "mesh.glb", mesh),
    "ply": lambda folder, mesh: save_ply(folder / "mesh.ply", mesh),
}


@dataclass(frozen=True)
class MeshOptions:
    """How a mesh is made of a field."""

    resolution: int = 256  # --mcubes_resolution, cells per axis
    decimate_target: int = 50_000  # --decimate_target, faces; 0 keeps all
    component_share: float = 0.1  # parts apart from the main one stay if they have this share of its volume; 1: none
    smoothing: int = 5  # iterations of Taubin smoothing
    texture_size: int = 2048  # texels per side
    unwrap_faces: int = 60_000  # xatlas is not asked beyond this
    unwrap_seconds: float = 60.0  # and is stopped after this
    formats: tuple[str, ...] = ("obj", "glb")  # of FORMATS

    def __post_init__(self):
        unknown = set(self.formats) - set(FORMATS)
        if unknown:
            raise ValueError(f"mesh formats are {', '.join(FORMATS)}, got {', '.join(sorted(unknown))}")
        if self.decimate_target and self.decimate_target < 4:
            raise ValueError(f"--decimate_target needs at least 4 faces (0: keep all), got {self.decimate_target}")
        if self.resolution < 8:
            raise ValueError(f"--mcubes_resolution needs at least 8, got {self.resolution}")


def save_mesh(
    field,
    folder: Path | str,
    *,
    options: MeshOptions | None = None,
    occupied: Tensor | None = None,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> dict[str, float | int | str]:
    """Extract the surface of a field, texture it and write it to `folder`.

    Args:
        field: Has `bound`, `density(x)` and `query(x)` (nerf/fields/base.py).
        occupied: Cells the renderer samples (`occupied_cells(renderer.occupancy)`); the mesh is confined to them and
            their neighbours, and extraction is faster. [H, H, H] bool
        device: Where the field lives; None: where its parameters are.

    Returns:
        Seconds per phase (`seconds_extract`, ...), counts (`density_points`, `faces_extracted`, `faces`, `vertices`),
        the `threshold`, and `unwrap`: "xatlas" or why it was not.

    Raises:
        ValueError: The scene is empty or not finite; nothing is written then.
    """
    options = options or MeshOptions()
    if device is None:
        parameter = next(iter(field.parameters()), None) if hasattr(field, "parameters") else None
        device = "cpu" if parameter is None else parameter.device
    report: dict[str, float | int | str] = {}
    begin = time.perf_counter()

    def finish(phase: str) -> None:
        nonlocal begin
        now = time.perf_counter()
        report[f"seconds_{phase}"] = round(now - begin, 3)
        begin = now

    volume = DensityVolume(
        field.density,
        resolution=options.resolution,
        bound=field.bound,
        occupied=occupied,
        device=device,
        progress=progress,
    )
    threshold = find_threshold(volume.values, volume.spacing)
    volume.refine(threshold)
    mesh = volume.surface(threshold)
    report |= {"threshold": threshold, "density_points": volume.queries, "faces_extracted": len(mesh.faces)}
    finish("extract")

    mesh = smooth(main_component(mesh, options.component_share), options.smoothing)
    mesh = decimate(mesh, options.decimate_target) if options.decimate_target else clean(mesh)
    report |= {"faces": len(mesh.faces), "vertices": len(mesh.vertices)}
    finish("decimate")

    mesh, note = unwrap(
        mesh, resolution=options.texture_size, max_faces=options.unwrap_faces, seconds=options.unwrap_seconds
    )
    report["unwrap"] = note or "xatlas"
    if note:
        tqdm.write(f"mesh: {note}")
    finish("unwrap")

    # As deep as light goes in the densest case that matters: two mean free paths at the density of the surface.
    depth = min(max(2 / threshold, volume.spacing), 0.05 * field.bound)
    color = seen_color(field, outside=volume.spacing, inside=depth)
    mesh = bake(mesh, color, size=options.texture_size, device=device, progress=progress)
    finish("texture")

    for name in options.formats:
        FORMATS[name](Path(folder), mesh)
    finish("write")
    return report
