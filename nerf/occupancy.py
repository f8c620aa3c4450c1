"""Which cells of the box may hold something: the grid that lets the packed renderer skip empty space.

Instant-NGP, arXiv:2201.05989, appendix C. Letters in shapes: C cascades, H cells per edge, M points.
Cascade c covers [-b, b]^3 with b = bound * 2^(c + 1 - C), the last one the whole box; cells lie in Morton order.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from nerf.fields.rays import block_size
from raymarching import cascade_half_width, morton3D_invert, packbits

# Without a floor the cells of a field that has become empty would stay occupied: they and their mean decay together.
FLOOR = 1e-3  # 1/scene unit: a path through the whole box at this density is 0.3 % opaque


class OccupancyGrid(nn.Module):
    """A running maximum of the density in each cell, and one bit per cell: worth a sample or not.

    Everything it knows is in buffers, so a checkpoint holds it. Before the first update every bit is set.

    Args:
        bound: Half the edge of the box, scene units. There are ceil(log2(bound)) + 1 cascades.
        resolution: Cells per edge, a power of two up to 1024.
        density_thresh: A cell is worth a sample above min(this, mean density) and above 0.001, 1/scene unit.
        decay: What remains of the old density of a cell each time it is looked at.
        warmup_updates: The first so many updates look at every cell; later ones at a random quarter and, of the
            occupied cells, at as many again at most.

    Raises:
        ValueError: a resolution that is no power of two, a bound or decay out of range.
    """

    def __init__(
        self,
        bound: float,
        *,
        resolution: int = 128,
        density_thresh: float = 10.0,
        decay: float = 0.95,
        warmup_updates: int = 16,
    ):
        super().__init__()
        if not 4 <= resolution <= 1024 or resolution & (resolution - 1):
            raise ValueError(f"the occupancy resolution must be a power of two from 4 to 1024, got {resolution}")
        if not bound > 0:
            raise ValueError(f"the bound of the occupancy grid must be positive, got {bound}")
        if not 0 < decay <= 1:
            raise ValueError(f"the decay of the occupancy grid must be in (0, 1], got {decay}")
        self.bound = float(bound)
        self.resolution = resolution
        self.cascades = 1 + max(0, math.ceil(math.log2(bound)))
        self.density_thresh = float(density_thresh)
        self.decay = float(decay)
        self.warmup_updates = warmup_updates
        cells = resolution**3
        self.register_buffer("density_grid", torch.zeros(self.cascades, cells))
        self.register_buffer("bitfield", torch.full((self.cascades * cells // 8,), 255, dtype=torch.uint8))
        self.register_buffer("mean_density", torch.zeros(()))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self._updates = 0  # the same on the host, which would have to wait for a GPU to know

    def _load_from_state_dict(self, *of) -> None:
        super()._load_from_state_dict(*of)
        self._updates = int(self.updates)

    @torch.no_grad()
    def update(self, density_fn: Callable[[Tensor], Tensor], *, generator: torch.Generator | None = None) -> None:
        """Look at the density in some cells, at a random point of each, and set the bits anew.

        Args:
            density_fn: Positions [M, 3] -> density [M] >= 0, 1/scene unit.
            generator: Draws cells and points; None: every cell, at its centre.
        """
        full = generator is None or self._updates < self.warmup_updates
        block = block_size(self.density_grid.device)
        for cascade in range(self.cascades):
            old = self.density_grid[cascade]
            if full:
                # A loop over ranges, so that 128^3 cells never exist as one list of points.
                for first in range(0, old.numel(), block):
                    part = old[first : first + block]
                    cells = torch.arange(first, first + len(part), dtype=torch.int32, device=old.device)
                    density = self._look(density_fn, cells, cascade, generator)
                    torch.maximum(part.mul_(self.decay), density, out=part)
            else:
                cells = self._choose(old, generator)
                seen = torch.full_like(old, -1.0)
                for some in cells.split(block):
                    density = self._look(density_fn, some, cascade, generator)
                    # A maximum is the same in every order: cells drawn twice do no harm.
                    seen.scatter_reduce_(0, some.long(), density, "amax")
                old.copy_(torch.where(seen >= 0, torch.maximum(old * self.decay, seen), old))
        self.mean_density.copy_(self.density_grid.mean())
        self._updates += 1
        self.updates.fill_(self._updates)
        self.bitfield.copy_(packbits(self.density_grid, self.threshold()))

    def threshold(self) -> Tensor:
        """The density above which a cell is worth a sample, 1/scene unit. []"""
        # A little less than the mean, or rounding would decide about a field that is the same everywhere.
        return (0.99 * self.mean_density.double()).clamp(max=self.density_thresh).clamp(min=FLOOR).float()

    def occupied(self) -> Tensor:
        """Share of the cells of each cascade that are worth a sample, in [0, 1]. [C]"""
        return (self.density_grid > self.threshold()).float().mean(1)

    def _choose(self, density: Tensor, generator: torch.Generator) -> Tensor:
        """One random cell of every four neighbours, and a random quarter's worth of occupied ones. [K] int32"""
        quarter = density.numel() // 4
        device = density.device
        within = torch.randint(4, (quarter,), generator=generator, device=generator.device).to(device)
        uniform = torch.arange(0, density.numel(), 4, device=device) + within
        occupied = density > self.threshold()
        if _is_counted(occupied):
            found = occupied.nonzero()[:, 0]
            if len(found) <= quarter:
                return torch.cat([uniform, found]).int()
        else:
            found = occupied.nonzero_static(size=len(occupied), fill_value=0)[:, 0]
        count, every = occupied.sum(), torch.arange(quarter, device=device)
        drawn = torch.rand(quarter, generator=generator, device=generator.device, dtype=torch.float64).to(device)
        # Where there are fewer, every one of them, and the first cell of all in place of the rest.
        drawn = torch.where(count > quarter, (drawn * count).long(), every)
        return torch.cat([uniform, found[drawn]]).int()

    def _look(self, density_fn, cells: Tensor, cascade: int, generator: torch.Generator | None) -> Tensor:
        """Density at one point of each cell. cells [K] int32 -> [K]"""
        corner = morton3D_invert(cells).float()
        if generator is None:
            inside = 0.5
        else:
            inside = torch.rand(corner.shape, generator=generator, device=generator.device).to(corner.device)
        half = cascade_half_width(cascade, self.bound, self.cascades)
        density = density_fn((corner + inside) * (2 * half / self.resolution) - half)
        return density.float().nan_to_num(nan=0.0)  # one NaN would stay for good, and empty the whole grid


def _is_counted(mask: Tensor) -> bool:
    """Whether the host learns how many there are without waiting for a device."""
    return mask.device.type == "cpu"
