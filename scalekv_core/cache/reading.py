"""Reading: history and current map side by side, where attention finds them."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen
from torch import Tensor

from scalekv_core.cache import key_values
from scalekv_core.cache.group_store import GroupStore
from scalekv_core.cache.prefetch import CopyStreamOf, Scratch
from scalekv_core.contracts.plan import CachePlan
from scalekv_core.contracts.strategies import CacheCodec
from scalekv_core.planning.footprint import scratch_slots


@frozen(eq=False)
class Read:
    """What attention reads of one group of heads.

    Attributes:
        block: (2, B, H, N, D) keys and values of history and current map.
        history: how many of the N tokens are history.
        in_place: whether the block is memory that will be kept as it is, and not the scratch.
    """

    block: Tensor
    history: int
    in_place: bool

    @property
    def tokens(self) -> int:
        """N."""
        return self.block.shape[3]


class Reader:
    """Reads what groups hold, into memory that is kept or into the scratch that all layers share.

    Args:
        plan, codec: of the cache.
        stores: all groups in the order in which they attend.
        copy_stream_of: by which stream histories come ahead of attention.
    """

    def __init__(
        self, plan: CachePlan, codec: CacheCodec, stores: Sequence[GroupStore], copy_stream_of: CopyStreamOf
    ) -> None:
        self._schedule = plan.schedule
        self._codec = codec
        self._stores = stores
        self.scratch = Scratch(scratch_slots(plan), codec, copy_stream_of)

    def read(self, store: GroupStore, scale: int, k: Tensor, v: Tensor) -> Read:
        """History of the group and current map k, v (B, H, n, D); the next group's history is sent for."""
        history = store.length
        total = history + k.shape[2]
        in_place = self._codec.dense and store.group.held[scale] == total
        if in_place:
            block = k.new_empty(2, *k.shape[:2], total, k.shape[3])
            key_values.append(block, store.stored, k, v)
        else:
            block = self.scratch.whole(store.stored, k, v)
        store.device = k.device
        if self._codec.leaves_device:
            self._fetch_next(store, scale, k)
        return Read(block, history, in_place)

    def _fetch_next(self, store: GroupStore, scale: int, k: Tensor) -> None:
        """Lets the history of the group that attends next come while this one computes; not if it lies elsewhere."""
        following = self._stores[(store.turn + 1) % len(self._stores)]
        scale += following.turn == 0
        if following is store or following.stored is None or following.device != k.device:
            return
        if scale < len(self._schedule):
            self.scratch.fetch(following.stored, k, len(following.group.heads), self._schedule.tokens[scale])
