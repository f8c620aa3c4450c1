"""What every volume renderer shares: rays in, background behind, pictures out.

Letters in shapes: B views, H W pixels, N rays, M samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from nerf.cameras import generate_rays
from nerf.fields.base import Field
from nerf.shading import needs_normals, view_lights
from nerf.types import Cameras, Rays, RenderOutput, Shading


@dataclass(frozen=True)
class Integral:
    """What a renderer found along its rays, everything premultiplied by opacity."""

    rgb: Tensor  # [N, 3]
    opacity: Tensor  # [N]
    depth: Tensor  # [N]
    normal: Tensor | None = None  # [N, 3]
    samples: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    """What is asked of the samples of one bundle of rays."""

    shading: Shading
    lights: Tensor  # [B, 3] unit direction towards the light of each view of the bundle
    normals: bool  # whether normals are wanted
    perturb: bool = False  # whether normals at positions moved a little are wanted as well
    generator: torch.Generator | None = None  # None: no jitter


class Renderer(nn.Module):
    """A field in a box, and what is behind it. Subclasses give `integrate`.

    With gradients enabled all rays go through in one bundle and the output carries its samples; without, they go
    in bundles of `max_ray_batch`, and `samples` is empty.

    Args:
        field: Density and albedo in [-bound, bound]^3.
        background: Direction [N, 3] -> colour [N, 3], or None for white.
        min_near: Nothing nearer to a camera is seen, scene units.
        max_ray_batch: Rays at a time without gradients.
    """

    def __init__(self, field: Field, background: nn.Module | None, *, min_near: float, max_ray_batch: int):
        super().__init__()
        if max_ray_batch < 1:
            raise ValueError(f"a bundle needs at least 1 ray, got {max_ray_batch}")
        self.field = field
        self.background_net = background
        self.min_near = float(min_near)
        self.max_ray_batch = max_ray_batch
        box = torch.tensor([-1.0, -1.0, -1.0, 1.0, 1.0, 1.0]) * field.bound
        self.register_buffer("aabb", box, persistent=False)

    def integrate(self, rays: Rays, request: Request) -> Integral:
        """Follow the rays through the field."""
        raise TypeError(f"{type(self).__name__} does not define integrate()")

    def update(self, step: int, *, generator: torch.Generator | None = None) -> None:
        """Bring what the renderer remembers of the field up to date; called before every training step."""

    def had_room(self) -> bool:
        """Whether there was room for all samples of what was rendered with gradients since the last call.

        If not, its pictures are wrong; with the same generator they come right when they are rendered again, at the
        latest after one more time. To be asked when the work of a step has been sent, before it is of consequence.
        """
        return True

    def render(
        self,
        cameras: Cameras,
        shading: Shading | None = None,
        *,
        generator: torch.Generator | None = None,
        background: Tensor | None = None,
        need_normals: bool = False,
        perturb_normals: bool = False,
    ) -> RenderOutput:
        """Render every view.

        Differentiable in the parameters of the field and of the background network, and in `background`.

        Args:
            cameras: B views of H x W pixels.
            shading: How albedo and normals become colour; None: albedo.
            generator: Draws the jitter of the samples; None: no jitter, the same picture every time.
            background: One colour [3], one per view [B, 3], or a picture [B, H, W, 3]; None: the background
                network, or white without one.
            need_normals: Compute normals even if the shading needs none.
            perturb_normals: Also give normals at positions moved by about a hundredth of a unit, for the smoothness
                loss (samples["normals_perturbed"]).

        Returns:
            Pictures. `depth` and `normal` are premultiplied by opacity. With gradients enabled `samples` holds weights,
            sigmas [M], positions, directions [M, 3], ts [M, 2], packed_info [N, 2] int32 and, where there are
            normals, normals [M, 3].

        Raises:
            ValueError: an unknown shading, or a background of another shape.
        """
        shading = shading or Shading()
        normals = needs_normals(shading) or need_normals or perturb_normals
        rays = generate_rays(cameras, self.aabb, self.min_near)
        lights = view_lights(shading, cameras)
        if torch.is_grad_enabled():
            found = self.integrate(rays, Request(shading, lights, normals, perturb_normals, generator))
        else:
            found = self._in_bundles(rays, shading, lights, normals, generator)

        views, height, width = len(cameras.c2w), cameras.height, cameras.width
        behind = self._background(rays.directions, background, (views, height, width))
        opacity = found.opacity.view(views, height, width, 1)
        return RenderOutput(
            rgb=found.rgb.view(views, height, width, 3) + (1 - opacity) * behind,
            opacity=opacity,
            depth=found.depth.view(views, height, width, 1),
            normal=None if found.normal is None else found.normal.view(views, height, width, 3),
            samples=found.samples,
        )

    def forward(self, *args, **options) -> RenderOutput:
        """The same as `render`."""
        return self.render(*args, **options)

    def _in_bundles(self, rays: Rays, shading, lights: Tensor, normals: bool, generator) -> Integral:
        parts = []
        for bundle, light in _bundles(rays, lights, self.max_ray_batch):
            parts.append(self.integrate(bundle, Request(shading, light, normals, False, generator)))
        return Integral(
            rgb=torch.cat([part.rgb for part in parts]),
            opacity=torch.cat([part.opacity for part in parts]),
            depth=torch.cat([part.depth for part in parts]),
            normal=torch.cat([part.normal for part in parts]) if normals else None,
        )

    def _background(self, directions: Tensor, background: Tensor | None, size: tuple[int, int, int]) -> Tensor:
        """Colour behind every pixel, in a shape that broadcasts to [B, H, W, 3]."""
        views, height, width = size
        if background is None:
            if self.background_net is None:
                return directions.new_ones(3)
            return self.background_net(directions).view(views, height, width, 3)
        shape = tuple(background.shape)
        if shape == (3,) or shape == (views, height, width, 3):
            return background
        if shape == (views, 3):
            return background[:, None, None]
        raise ValueError(f"a background is [3], [{views}, 3] or [{views}, {height}, {width}, 3], got {list(shape)}")


def _bundles(rays: Rays, lights: Tensor, size: int) -> Iterator[tuple[Rays, Tensor]]:
    """Pieces of at most `size` rays, each of one view, with that view's light [1, 3]."""
    per_view = len(rays.near) // len(lights)
    for view in range(len(lights)):
        for start in range(view * per_view, (view + 1) * per_view, size):
            part = slice(start, min(start + size, (view + 1) * per_view))
            bundle = Rays(rays.origins[part], rays.directions[part], rays.near[part], rays.far[part])
            yield bundle, lights[view : view + 1]


def perturbed(positions: Tensor, field: Field, generator: torch.Generator | None) -> Tensor:
    """Positions moved by a normal deviate of a hundredth of a unit, kept in the box. [M, 3]

    Without a generator they move by that much along the diagonal.
    """
    if generator is None:
        move = torch.ones_like(positions)
    else:
        move = torch.randn(positions.shape, generator=generator, device=generator.device).to(positions.device)
    return (positions + 1e-2 * move).clamp(-field.bound, field.bound)
