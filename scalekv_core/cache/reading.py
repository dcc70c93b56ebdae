"""Reading: puts history and current map side by side for attention."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import define
from torch import Tensor

from scalekv_core.cache import key_values
from scalekv_core.cache.group_store import GroupStore
from scalekv_core.cache.key_values import Block
from scalekv_core.cache.prefetch import CopyStreamOf, Scratch
from scalekv_core.contracts.plan import CachePlan
from scalekv_core.contracts.strategies import CacheCodec
from scalekv_core.planning.footprint import scratch_slots


@define(eq=False)
class Read:
    """What attention reads of one group of heads.

    Attributes:
        k, v: (B, H, N, D) of history and current map.
        block: of the scratch, that they are halves of; None where k and v are what the group holds from now on.
        history: how many of the N tokens are history.
        tokens: N.
    """

    k: Tensor
    v: Tensor
    block: Block | None
    history: int
    tokens: int


class Reader:
    """Reads a group's history, in place if all of it is kept, otherwise into the scratch that all layers share.

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

    def read(self, store: GroupStore, scale: int, k: Tensor, v: Tensor, *, stores: bool = True) -> Read:
        """History of the group and current map k, v (B, H, n, D); starts to fetch the next group's history.

        Args:
            store, scale, k, v: of what.
            stores: whether this is the pass of the map that is stored.
        """
        history = store.length
        total = history + k.shape[2]
        if stores and self._codec.dense and store.group.held[scale] == total:
            keys, values = key_values.grown(store.stored, k, v)
            store.stored = key_values.dense(keys, values)  # at once: attention gets the memory of the old ones
            return Read(keys, values, None, history, total)
        block = self.scratch.whole(store.stored, k, v)
        if self._codec.leaves_device:
            store.device = k.device
            self._fetch_next(store, scale, k, stores)
        return Read(block.keys, block.values, block, history, total)

    def _fetch_next(self, store: GroupStore, scale: int, k: Tensor, stores: bool) -> None:
        """Starts to fetch the history of the group that attends next, unless that group is on another device."""
        following = self._stores[(store.turn + 1) % len(self._stores)]
        scale += stores and following.turn == 0
        if following is store or following.stored is None or following.device != k.device:
            return
        if scale < len(self._schedule):
            self.scratch.fetch(following.stored, k, len(following.group.heads), self._schedule.tokens[scale])
