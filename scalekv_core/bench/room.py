"""Whether a measurement fits into memory, found out before anything is allocated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from attrs import evolve

from scalekv_core.bench.contenders import Contender
from scalekv_core.bench.settings import BenchSettings
from scalekv_core.errors import InputError
from scalekv_core.memory.dry_run import weight_bytes
from scalekv_core.memory.estimate import Course, planned_course, unmodified_course
from scalekv_core.memory.meter import available_memory
from scalekv_core.shapes.geometry import format_bytes


def check_room(settings: BenchSettings, contenders: Sequence[Contender], *, available: int | None = None) -> None:
    """Refuses what does not fit.

    Args:
        settings, contenders: what is to be measured.
        available: bytes; by default those that are free on the settings' device.

    Raises:
        InputError: it does not fit; says what takes how much.
    """
    there = available_memory(settings.device) if available is None else available
    parts = needed_bytes(settings, contenders)
    if there is None or sum(parts.values()) <= there:
        return
    listed = ", ".join(f"{name} {format_bytes(count)}" for name, count in parts.items())
    raise InputError(
        f"this measurement takes {format_bytes(sum(parts.values()))} ({listed}) and {settings.device} has "
        f"{format_bytes(there)} free; measure a smaller batch or image, or fewer layers"
    )


def needed_bytes(settings: BenchSettings, contenders: Sequence[Contender]) -> dict[str, int]:
    """{what: bytes} of a measurement: contenders draw one after the other, so the largest cache counts."""
    cache = max((cache_bytes(contender) for contender in contenders), default=0)
    return {**_beside_cache(settings, contenders), "largest cache": cache}


def cache_bytes(contender: Contender) -> int:
    """The most that the cache of the layers that are run takes at one moment."""
    layers = [run.layer for run in contender.layers]
    course = _course(contender)
    return int(course.held[:, layers].sum(axis=1).max() + course.extra[:, layers].max()) + course.scratch


def _course(contender: Contender) -> Course:
    if contender.planned is None or contender.planned_bytes is None:  # concatenates, before it cuts if it does
        return unmodified_course(contender.geometry)
    return planned_course(contender.planned)


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
        "activations": evolve(batch, dtype=settings.geometry.dtype).dry_run.drawing,
    }


def input_bytes(settings: BenchSettings) -> int:
    """Of the queries, keys and values of all scales: in float32 the values keep the block that they were drawn in."""
    geometry = settings.geometry
    numbers = geometry.rows * geometry.heads * geometry.head_dim * geometry.schedule.total
    if geometry.dtype == torch.float32:
        return 5 * numbers * torch.float32.itemsize
    return 3 * numbers * geometry.dtype.itemsize
