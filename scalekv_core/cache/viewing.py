"""Views for policies and observers: positions, counts and statistics of a head group, with its keys and values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor

from scalekv_core import ops
from scalekv_core.cache.group_store import GroupStore
from scalekv_core.cache.reading import Read
from scalekv_core.contracts.steps import Run
from scalekv_core.contracts.tables import Tables, zero
from scalekv_core.contracts.view import CacheView
from scalekv_core.shapes.schedule import ScaleSchedule


def view_of(
    store: GroupStore,
    read: Read,
    tables: Tables,
    *,
    q: Tensor,
    counts: Tensor | None,
    schedule: ScaleSchedule,
    layer: int,
    scale: int,
    softmax_scale: float,
    statistics: Sequence[str],
) -> CacheView:
    """The view of all tokens that were read; ``statistics`` names those of the selector."""
    return CacheView(
        q=q,
        k=read.k,
        v=read.v,
        positions=positions_of(store, schedule, scale, read, tables),
        counts=counts,
        statistics={name: _statistic(store, name, read, tables) for name in statistics},
        schedule=schedule,
        layer=layer,
        scale=scale,
        heads=store.group.heads,
        softmax_scale=softmax_scale,
        tables=tables,
    )


def positions_of(store: GroupStore, schedule: ScaleSchedule, scale: int, read: Read, tables: Tables) -> Tensor:
    """(B, H, N) int32; computed, not stored, while the tokens are whole maps or the latest without gaps."""
    start, stop = schedule.history[scale], schedule.seen[scale]
    if store.positions is not None:
        runs: tuple[Run, ...] = ((start, stop),)
    elif store.steps is None:
        runs = ((stop - read.tokens, stop),)
    else:
        runs = tuple((schedule.history[m], schedule.seen[m]) for m in store.steps[scale].maps)
    counted = tables.get(_counted, runs, *read.k.shape[:2], device=read.k.device)
    return counted if store.positions is None else torch.cat([store.positions, counted], dim=2)


def _counted(runs: tuple[Run, ...], rows: int, heads: int, *, device: torch.device) -> Tensor:
    return ops.run_index(runs, device=device).int().expand(rows, heads, -1)


def _statistic(store: GroupStore, name: str, read: Read, tables: Tables) -> Tensor:
    """(B, H, N) the statistic so far; zero for the current map."""
    rows, heads, tokens = read.k.shape[:3]
    if name not in store.statistics:
        return tables.get(zero, device=read.k.device).expand(rows, heads, tokens)
    current = (rows, heads, tokens - read.history)
    return cast(Tensor, with_current(store.statistics[name], zero, current, tables))


def with_current(
    held: Tensor | None, make: Callable[..., Tensor], current: Sequence[int], tables: Tables
) -> Tensor | None:
    """(B, H, N) the stored values of the history, then what ``make`` gives for the current map.

    Args:
        held: None if nothing is.
        make: (1,) for one token.
        current: (B, H, n, ...) the shape of the current map.
        tables: remembers what was made.
    """
    if held is None:
        return None
    return torch.cat([held, tables.get(make, device=held.device).expand(*current[:3])], dim=2)
