"""Which setting of a study to take where the cache may have so much memory."""

from __future__ import annotations

import numpy as np
from attrs import frozen

from scalekv_core.compare.results import Results, Row
from scalekv_core.errors import InputError
from scalekv_core.shapes.geometry import format_bytes, plural


@frozen(kw_only=True)
class Recommendation:
    """A setting that fits, with the price of half the memory.

    Attributes:
        best, second: by fidelity, of those that fit; ``second`` None if only one does.
        half: the best that fits into half the memory; None if none does.
    """

    best: Row
    second: Row | None
    half: Row | None


def recommend(results: Results, memory: int, metric: str) -> Recommendation:
    """The setting with the best figure whose cache (the measured peak, or what it holds) fits.

    Args:
        results: of one model.
        memory: bytes for the cache of a batch.
        metric: what is called best.

    Raises:
        InputError: nothing was measured, or nothing fits; the least is named.
    """
    order = [results.row(one.key) for one in results.ranked(metric) if not np.isnan(one.figure.value)]
    if not order:
        raise InputError(f"the study has no figure of {metric!r} for model {results.model!r}")
    fitting = [row for row in order if needed(row) <= memory]
    if not fitting:
        least = min(order, key=needed)
        raise InputError(
            f"no setting of this study fits into {format_bytes(memory)}; the smallest is {least.label!r} with "
            f"{format_bytes(needed(least))} for a batch of {plural(results.batch, 'image')}"
        )
    half = next((row for row in order if needed(row) <= memory // 2), None)
    return Recommendation(best=fitting[0], second=fitting[1] if len(fitting) > 1 else None, half=half)


def needed(row: Row) -> int:
    """Bytes that the cache of a setting takes at one moment."""
    return row.peak_bytes or row.resident_bytes or row.planned_bytes or 0
