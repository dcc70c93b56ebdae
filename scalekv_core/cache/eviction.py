"""Eviction: after a scale's attention, reduces the tokens that it read to those that the plan allows.

The selector says which tokens are kept, the merger where the others go, the codec how the kept ones are stored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from attrs import evolve
from torch import Tensor

from scalekv_core import ops
from scalekv_core.cache import key_values
from scalekv_core.cache.answers import AnswerCheck
from scalekv_core.cache.clock import Clock
from scalekv_core.cache.group_store import GroupStore
from scalekv_core.cache.key_values import Block
from scalekv_core.cache.reading import Read
from scalekv_core.contracts.plan import HeadGroup
from scalekv_core.contracts.policy import Policy
from scalekv_core.contracts.strategies import TokenSelector
from scalekv_core.contracts.tables import one
from scalekv_core.contracts.view import CacheView

Parts = Sequence[tuple[int, int, int]]

Observer = Callable[[CacheView, Tensor | None], None]
"""Called after every scale of every group of heads with what was seen and which tokens are kept (None: all)."""


class Evictor:
    """Keeps in a group of heads what its plan allows.

    Args:
        policy: whose selector, merger and codec.
        answers: checks what they answer.
        clock: measures the stages.
        observer: is shown every view and what is kept.
        always_ask: ask the selector in every layer, also where it can only repeat what it answered in another one.
    """

    def __init__(
        self, policy: Policy, answers: AnswerCheck, clock: Clock, observer: Observer | None, *, always_ask: bool = False
    ) -> None:
        self._policy = policy
        self._answers = answers
        self._clock = clock
        self._observer = observer
        self._observes = policy.selector.statistics != ()
        self._repeats = not always_ask and policy.merger.drops and _goes_by_positions(policy.selector)

    def looks(self, keep: int) -> bool:
        """Whether views are needed even if nothing is evicted: for an observer, or for running statistics."""
        return self._observer is not None or (keep > 0 and self._observes)

    def evict(self, store: GroupStore, view: CacheView, read: Read) -> None:
        """Stores the kept tokens of the view; until then the group's store holds the history."""
        keep = store.group.held[view.scale]
        view = self._observe(view) if keep else view
        kept = (
            self._select(view, store.group, keep, _quota_parts(view, store.group)) if 0 < keep < view.tokens else None
        )
        if self._observer is not None:
            nothing = view.positions.new_empty(*view.positions.shape[:2], 0, dtype=torch.int64)
            self._observer(view, kept if keep else nothing)
        if keep == 0:
            store.clear()
            return
        if kept is None or read.block is None:
            self.keep_all(store, read, view.scale)
        elif self._policy.merger.drops:
            self._drop_others(store, view, read.block, read.history, kept)
        else:
            self._fold_others(store, view, read.block, kept)
        self._carry(store, view, kept)

    def keep_all(self, store: GroupStore, read: Read, scale: int) -> None:
        """Stores keys and values of history and current map."""
        if read.block is None:
            return  # the group holds them already
        with self._clock.stage(scale, "store"):
            store.stored = key_values.keep(store.stored, read.block, read.history, None, self._policy.codec)

    def _observe(self, view: CacheView) -> CacheView:
        """The view with the statistics as the selector has updated them."""
        if not self._observes:
            return view
        with self._clock.stage(view.scale, "observe"):
            returned = self._policy.selector.observe(view)
        return evolve(view, statistics=self._answers.statistics(view, returned))

    def _select(self, view: CacheView, group: HeadGroup, keep: int, parts: Parts | None) -> Tensor:
        if not self._repeats:
            return self._answer(view, keep, parts)
        asked = (
            self._policy.selector,
            view.schedule,
            view.scale,
            group,
            view.positions.shape[0],
            view.positions.device,
        )
        return view.tables.remember(asked, lambda: self._answer(view, keep, parts))

    def _answer(self, view: CacheView, keep: int, parts: Parts | None) -> Tensor:
        selector = self._policy.selector
        with self._clock.stage(view.scale, "select"):
            kept = selector.select(view, keep) if parts is None else selector.select_by_source(view, parts)
        return self._answers.kept(view, kept, keep)

    def _drop_others(self, store: GroupStore, view: CacheView, block: Block, history: int, kept: Tensor) -> None:
        codec = self._policy.codec
        with self._clock.stage(view.scale, "store"):
            if codec.dense:
                store.stored = None  # given back before the new is allocated: the block has it all
                store.stored = key_values.dense(_gathered(view, block, kept))
            else:
                store.stored = key_values.keep(store.stored, block, history, kept, codec)
            store.counts = None if view.counts is None else ops.gather_tokens(view.counts, kept)

    def _fold_others(self, store: GroupStore, view: CacheView, block: Block, kept: Tensor) -> None:
        """Replaces keys and values of kept tokens by means over all tokens that were folded into them."""
        codec, keep = self._policy.codec, kept.shape[2]
        store.stored = None
        with self._clock.stage(view.scale, "merge"):
            target = self._answers.targets(view, self._policy.merger.assign(view, kept), kept)
            counts = view.counts if view.counts is not None else view.table(one).expand(target.shape)
            weights = self._policy.merger.weights(view)
            weights = counts if weights is None else self._answers.weights(view, weights)
            means, store.counts = ops.fold(block.both, weights, counts, target, keep)
        with self._clock.stage(view.scale, "store"):
            store.stored = key_values.dense(means) if codec.dense else key_values.encode(means, codec)

    def _carry(self, store: GroupStore, view: CacheView, kept: Tensor | None) -> None:
        """Stores positions and statistics of the kept tokens."""
        if kept is None:
            store.counts = view.counts
            store.positions = None if store.positions is None else view.positions
            store.statistics = dict(view.statistics)
            return
        store.positions = ops.gather_tokens(view.positions, kept)
        store.statistics = {name: ops.gather_tokens(x, kept) for name, x in view.statistics.items()}


def _goes_by_positions(selector: TokenSelector) -> bool:
    """Whether the selector's choice depends on schedule and plan only, so that layers and images can share it."""
    return not selector.statistics and {"contents_are_ignored", "layers_are_alike"} <= selector.claims


def _gathered(view: CacheView, block: Block, kept: Tensor) -> Tensor:
    """(2 B, H, keep, D) the kept tokens of the block."""
    rows, heads, tokens = block.both.shape[:3]
    starts = view.table(ops.token_starts, rows, kept.shape[0], heads, tokens)
    return ops.gather_tokens(block.both, kept, starts)


def _quota_parts(view: CacheView, group: HeadGroup) -> Parts | None:
    """(start, stop, keep) of every source scale's tokens, which are contiguous and equally many in every row."""
    if group.quota is None:
        return None
    before = group.quota[view.scale - 1] if view.scale else ()
    parts, start = [], 0
    for source in range(view.scale + 1):
        there = view.current if source == view.scale else before[source]
        parts.append((start, start + there, group.quota[view.scale][source]))
        start += there
    return parts
