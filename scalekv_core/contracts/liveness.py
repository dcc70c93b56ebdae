"""How many tokens are held where maps are dropped after their last reader, and where a text prefix is always kept."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scalekv_core.shapes.schedule import ScaleSchedule

Counts = NDArray[np.int64]


def alive_prefix(schedule: ScaleSchedule, scale: int) -> int:
    """Tokens of the text prefix that are held after a scale."""
    return schedule.prefix_tokens if 0 in schedule.alive[scale] else 0


def alive_maps(schedule: ScaleSchedule, scale: int) -> tuple[int, ...]:
    """The maps, the prefix aside, that are held after a scale."""
    return tuple(m for m in schedule.alive[scale] if m or not schedule.prefix)


def held_of(schedule: ScaleSchedule, capacity: Counts) -> Counts:
    """[K, L, H] tokens held after each scale, where the maps that are held together are all read by the same later maps."""
    held, maps = np.zeros_like(capacity), np.zeros_like(capacity[0])
    for k, new in enumerate(schedule.tokens):
        prefix, alive = alive_prefix(schedule, k), alive_maps(schedule, k)
        if not any(m < k for m in alive):
            maps = np.zeros_like(maps)
        if k in alive:
            maps = np.clip(capacity[k] - prefix, 0, maps + new)
        held[k] = prefix + maps
    return held


def shares_of(schedule: ScaleSchedule, capacity: Counts, quota: Counts | None) -> Counts:
    """[K, L, H, K] tokens held after each scale of each source scale.

    By the quota, as far as these tokens are there; without one what is there is shared in proportion. Where a map is not
    stored, nothing else is evicted.
    """
    shares = np.zeros((*capacity.shape, len(schedule)), dtype=np.int64)
    there = np.zeros_like(shares[0])
    for k, new in enumerate(schedule.tokens):
        there[..., k] = new
        there[..., [m for m in range(len(schedule)) if m not in schedule.alive[k]]] = 0
        if k in schedule.alive[k]:
            prefix = alive_prefix(schedule, k)
            wanted = quota[k] if quota is not None else _in_proportion(there, capacity[k] - prefix, schedule.prefix)
            there = np.minimum(wanted, there)
            if schedule.prefix:
                there[..., 0] = prefix
        shares[k] = there
    return shares


def _in_proportion(there: Counts, most: Counts, first: int) -> Counts:
    """[L, H, K] at most so many of what is there from the source scale ``first`` on, each source by its size."""
    sizes = there.copy()
    sizes[..., :first] = 0
    upto = sizes.cumsum(axis=-1)
    total = upto[..., -1:]
    kept = np.minimum(np.maximum(most[..., None], 0), total) * upto // np.maximum(total, 1)
    return np.diff(kept, axis=-1, prepend=0)
