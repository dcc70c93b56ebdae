"""Whether a measurement fits into memory, found out before anything is allocated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from attrs import evolve

from scalekv_core.bench.contenders import Contender
from scalekv_core.bench.settings import BenchSettings
from scalekv_core.memory.bound import attending_bound
from scalekv_core.memory.cache_bytes import CacheBytes
from scalekv_core.memory.dry_run import weight_bytes
from scalekv_core.memory.free import available_memory, check_free_memory
from scalekv_core.shapes.geometry import format_bytes


def check_bench_fits(settings: BenchSettings, contenders: Sequence[Contender], *, available: int | None = None) -> None:
    """Refuses a measurement that needs more memory than is free. The caches are run dry only if an upper bound does not fit.

    Args:
        settings, contenders: what is to be measured.
        available: bytes; by default those that are free on the settings' device.

    Raises:
        InputError: it does not fit; says what takes how much.
    """
    free = available_memory(settings.device) if available is None else available
    beside = _beside_cache(settings, contenders)
    if free is None or sum(beside.values()) + max(map(_cache_bound, contenders), default=0) <= free:
        return
    parts = _with_cache(beside, contenders)
    check_free_memory(
        sum(parts.values()),
        free,
        what=f"this measurement on {settings.device}",
        parts=", ".join(f"{name} {format_bytes(count)}" for name, count in parts.items()),
        suggestion=lambda: "measure a smaller batch or image, or fewer layers",
    )


def needed_bytes(settings: BenchSettings, contenders: Sequence[Contender]) -> dict[str, int]:
    """{part: bytes} of a measurement. Contenders generate one after the other, so the largest cache counts."""
    return _with_cache(_beside_cache(settings, contenders), contenders)


def _with_cache(beside: Mapping[str, int], contenders: Sequence[Contender]) -> dict[str, int]:
    return {**beside, "largest cache": max(map(cache_bytes, contenders), default=0)}


def cache_bytes(contender: Contender) -> int:
    """The peak of the cache of the layers that are run."""
    layers = [run.layer for run in contender.layers]
    cache = _cache_of(contender)
    return int(cache.resident[:, layers].sum(axis=1).max() + cache.attending[:, layers].max()) + cache.scratch


def _cache_of(contender: Contender) -> CacheBytes:
    if contender.planned is None or contender.planned_bytes is None:  # concatenates, before it evicts if it does
        return CacheBytes.of_unmodified(contender.geometry)
    return CacheBytes.of_plan(contender.planned)


def _cache_bound(contender: Contender) -> int:
    """An upper bound of the peak, without a dry run: no policy holds more than the unmodified cache of the same layers, with a
    scratch of two histories."""
    geometry = evolve(contender.geometry, layers=len(contender.layers))
    return geometry.unmodified_bytes + 2 * geometry.token_bytes * geometry.schedule.total + attending_bound(geometry)


def _beside_cache(settings: BenchSettings, contenders: Sequence[Contender]) -> Mapping[str, int]:
    batch = settings.whole
    if batch is None:
        return {"queries, keys and values": input_bytes(settings)}
    counts = {len(contender.layers) for contender in contenders}
    bares = [
        batch.card.bare(aspect=batch.aspect, size=batch.size, layers=layers, dtype=batch.dtype) for layers in counts
    ]
    return {
        "weights": sum(sum(weight_bytes(bare).values()) for bare in bares),
        "activations": evolve(batch, dtype=settings.geometry.dtype).dry_run.most,
    }


def input_bytes(settings: BenchSettings) -> int:
    """Of the queries, keys and values of all scales. In float32 the values keep alive the block that they were made in."""
    geometry = settings.geometry
    numbers = geometry.rows * geometry.heads * geometry.head_dim * geometry.schedule.total
    queries = numbers * geometry.group if geometry.group > 1 else 0  # of their own; those in the block are not used
    if geometry.dtype == torch.float32:
        return (5 * numbers + 2 * queries) * torch.float32.itemsize
    return (3 * numbers + queries) * geometry.dtype.itemsize
