"""Any field along rays: some samples of each at a time, until it has ended.

Letters in shapes: N rays, M samples, K of them reached.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

QUERY_BLOCK = 1 << 16  # points per query without gradients: bounds memory, and stays near the cache
CPU_ROUND = 16  # samples of each ray between two looks at which rays have ended
GPU_ROUND = 1024  # there looking costs more than sampling


def in_blocks(function, x: Tensor):
    """Call `function` on x [M, 3]; without gradients block by block. Returns what it returns, a tensor or a tuple."""
    if torch.is_grad_enabled() or len(x) <= QUERY_BLOCK:
        return function(x)
    parts = [function(block) for block in x.split(QUERY_BLOCK)]
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
    most = int(count.max()) if len(alive) else 0  # looking there again costs nothing: nonzero has waited already
    steps = torch.arange(min(CPU_ROUND if lengths.device.type == "cpu" else GPU_ROUND, most), device=lengths.device)
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
