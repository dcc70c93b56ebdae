"""Byte arithmetic: what a cache of this many tokens weighs, in this model, at this batch."""

from __future__ import annotations

from functools import cached_property

import torch
from attrs import evolve, field, frozen

from scalekv_core.shapes.schedule import ScaleSchedule
from scalekv_core.shapes.values import whole


@frozen(kw_only=True)
class CacheGeometry:
    """The shape of a model's KV cache for one schedule and batch, with its bytes.

    Attributes:
        schedule: the maps of one image.
        layers: layers with self-attention, L.
        heads: key/value heads of each layer, H.
        group: consecutive query heads that share one key/value head.
        head_dim: width of a head, D.
        rows: sequences in the batch, B; with guidance twice the images.
        dtype: in which attention reads keys and values, hence how scalekv stores them.
        unmodified_key_dtype: in which the unmodified model stores its keys (the official Infinity: float32
            although attention reads bfloat16). Defaults to ``dtype``.

    >>> g = CacheGeometry(schedule=ScaleSchedule.square(1, 2), layers=2, heads=3, head_dim=8)
    >>> g.token_bytes, g.slot_bytes, g.unmodified_bytes
    (384, 64, 1920)
    """

    schedule: ScaleSchedule
    layers: int = field(validator=whole(1))
    heads: int = field(validator=whole(1))
    head_dim: int = field(validator=whole(1))
    rows: int = field(default=1, validator=whole(1))
    dtype: torch.dtype = torch.float32
    unmodified_key_dtype: torch.dtype | None = None
    group: int = field(default=1, validator=whole(1))

    @property
    def query_heads(self) -> int:
        """Query heads of each layer."""
        return self.heads * self.group

    def for_rows(self, rows: int) -> CacheGeometry:
        """The same geometry with another number of rows."""
        return evolve(self, rows=rows)

    @cached_property
    def of_maps(self) -> CacheGeometry:
        """The same without a text prefix: what a policy plans for."""
        return evolve(self, schedule=self.schedule.without_prefix) if self.schedule.prefix else self

    @property
    def slot_bytes(self) -> int:
        """Bytes of one token's key and value in one head of one layer of one row, as scalekv stores them dense."""
        return 2 * self.head_dim * self.dtype.itemsize

    @property
    def token_bytes(self) -> int:
        """Bytes of one token in all heads, layers and rows, as scalekv stores it dense."""
        return self.slot_bytes * self.slots_per_token * self.rows

    @property
    def unmodified_token_bytes(self) -> int:
        """Bytes of one token in all heads, layers and rows, as the unmodified model stores it."""
        key = (self.unmodified_key_dtype or self.dtype).itemsize
        return self.head_dim * (key + self.dtype.itemsize) * self.slots_per_token * self.rows

    @property
    def slots_per_token(self) -> int:
        """Slots that one token takes in one row: one in each head of each layer."""
        return self.layers * self.heads

    @property
    def unmodified_bytes(self) -> int:
        """The most that the unmodified model holds: every map that is read once more, and the current one, even the last."""
        return max(self.schedule.unmodified_held) * self.unmodified_token_bytes

    @property
    def history_bytes(self) -> int:
        """The most that later scales can still read, stored in ``dtype``: the least that is lossless."""
        return self.schedule.last_history * self.token_bytes


def plural(count: int, what: str) -> str:
    """A number of things.

    >>> plural(1, "row"), plural(2, "row")
    ('1 row', '2 rows')
    """
    return f"{count} {what}{'s' * (count != 1)}"


def format_bytes(count: int) -> str:
    """A byte count as people read it.

    >>> format_bytes(88_424_513_536)
    '82.4 GiB'
    """
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"
