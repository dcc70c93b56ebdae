"""An upper bound on the memory of a batch that needs no dry run.

It may be several times what is needed. Where even the bound fits, the dry run would only prove what is known.
"""

from __future__ import annotations

from scalekv_core.memory.batch import Batch
from scalekv_core.planning.footprint import Footprint
from scalekv_core.shapes.geometry import CacheGeometry

_FLOAT = 4


def upper_bound(batch: Batch, footprint: Footprint | None = None) -> int | None:
    """Maximum bytes that a batch takes; None if the model's card has no bound.

    The parts need not be at their largest at one moment: the bound is their sum.

    Args:
        batch: what is generated.
        footprint: of the cache under a plan; None for the unmodified model.
    """
    beside = batch.card.size_bound(aspect=batch.aspect, size=batch.size)
    if beside is None:
        return None
    geometry = batch.geometry
    cache = geometry.unmodified_bytes
    if footprint is not None:
        cache = footprint.most_planned + 2 * footprint.scratch  # a codec that reads ahead has a second buffer
    return beside.of(images=batch.images, rows=geometry.rows) + cache + attending_bound(geometry)


def attending_bound(geometry: CacheGeometry) -> int:
    """Maximum bytes that one layer takes while it attends and evicts, beside what it held before.

    Allowed are two matrices of all tokens by all tokens in float32, and eight copies of all keys. Selectors that score
    tokens, mergers that compare them and codecs need a sixth of that or less (tests/memory/test_bound.py).
    """
    tokens = geometry.schedule.total
    return geometry.rows * geometry.query_heads * _FLOAT * (2 * tokens**2 + 8 * tokens * geometry.head_dim)
