"""Any field along rays, up to where each has ended: all samples on a GPU, some of each at a time on a CPU.

Letters in shapes: N rays, M samples, K of them reached.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from raymarching import flatten_rays

CPU_BLOCK, GPU_BLOCK = 1 << 16, 1 << 18  # bounds memory; stays near a CPU's cache
ROUND = 16  # samples of each ray between two looks at which rays have ended


def block_size(device: torch.device) -> int:
    """How many points to query at a time without gradients."""
    return CPU_BLOCK if device.type == "cpu" else GPU_BLOCK


def in_blocks(function, x: Tensor):
    """Call `function` on x [M, 3]; without gradients block by block. Returns what it returns, a tensor or a tuple."""
    size = block_size(x.device)
    if torch.is_grad_enabled() or len(x) <= size:
        return function(x)
    parts = [function(block) for block in x.split(size)]
    if isinstance(parts[0], Tensor):
        return torch.cat(parts)
    return tuple(torch.cat(part) for part in zip(*parts, strict=True))


@torch.no_grad()
def follow(
    evaluate: Callable[[Tensor], tuple[Tensor, ...]],
    positions: Tensor,
    lengths: Tensor,
    packed_info: Tensor,
    limit: float,
) -> tuple[Tensor, ...]:
    """Evaluate the samples of every ray up to where its optical depth passes `limit`, all rays together.

    For a CPU: it asks again and again which rays have ended, where a GPU would be waited for.

    Args:
        evaluate: Positions [K, 3] -> density [K], and more if wanted.
        The others: As for `Field.query_rays`.

    Returns:
        What `evaluate` gave for the samples that were reached, kept [K] int64 and counts [N] int32.
    """
    first, count = packed_info.long().unbind(1)
    found = [value.new_zeros(len(lengths), *value.shape[1:]) for value in evaluate(positions[:0])]
    depth, counts = lengths.new_zeros(len(count)), torch.zeros_like(count)
    alive = count.nonzero()[:, 0]
    most = int(count.max()) if len(alive) else 0
    steps = torch.arange(min(ROUND, most), device=lengths.device)
    while len(alive):
        inside = steps < count[alive, None]
        index = (first[alive, None] + steps)[inside]
        for store, value in zip(found, in_blocks(evaluate, positions[index]), strict=True):
            store[index] = value
        passed = lengths.new_zeros(inside.shape).masked_scatter(inside, found[0][index] * lengths[index])
        behind = depth[alive, None] + passed.cumsum(1)
        before = torch.cat([depth[alive, None], behind[:, :-1]], 1)
        counts[alive] += (inside & ~(before > limit)).sum(1)
        depth[alive] = behind[:, -1]
        steps = steps + len(steps)
        alive = alive[~(depth[alive] > limit) & (count[alive] > steps[0])]
    start = first - (counts.cumsum(0) - counts)
    kept = torch.repeat_interleave(start, counts)
    kept = kept + torch.arange(len(kept), device=kept.device)
    return *(store[kept] for store in found), kept, counts.int()


@torch.no_grad()
def sift(
    evaluate: Callable[[Tensor], tuple[Tensor, ...]],
    positions: Tensor,
    lengths: Tensor,
    packed_info: Tensor,
    limit: float,
) -> tuple[Tensor, ...]:
    """The same as `follow` from the densities of all samples: for a GPU, which is waited for once, to learn K.

    The depth of all rays is one sum, in float64: in float32 a ray would not notice its samples behind a million others.
    No sample counts for more than ends its ray, or as NaN, so that none has a say in where the others end.
    """
    found = in_blocks(evaluate, positions)
    if not len(positions):
        return *found, torch.zeros(0, dtype=torch.int64, device=lengths.device), torch.zeros_like(packed_info[:, 1])
    owner = flatten_rays(packed_info, len(positions)).long()
    ray = owner.clamp(min=0)  # of no use where there is none
    depth = (found[0] * lengths).double().nan_to_num(nan=0.0).clamp(max=2 * limit + 1)
    before = depth.cumsum(0) - depth
    begin = before[packed_info[:, 0].long().clamp(max=len(before) - 1)]
    inside = ~(before - begin[ray] > limit) & (owner >= 0)
    counts = torch.zeros_like(packed_info[:, 1]).scatter_add_(0, ray, inside.to(packed_info.dtype))
    kept = inside.nonzero()[:, 0]
    return *(value[kept] for value in found), kept, counts
