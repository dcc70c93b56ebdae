"""Eviction for schedules in which maps are dropped after their last reader and a text prefix is always kept.

What no later map reads is dropped first, under every policy; the policy sees the rest, without the prefix.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from scalekv_core import ops
from scalekv_core.cache import key_values
from scalekv_core.cache.eviction import Evictor
from scalekv_core.cache.group_store import GroupStore
from scalekv_core.cache.key_values import Block
from scalekv_core.cache.reading import Read
from scalekv_core.contracts.encoded import Encoded
from scalekv_core.contracts.steps import Step
from scalekv_core.contracts.tables import one
from scalekv_core.contracts.view import CacheView


class SteppedEvictor(Evictor):
    """The evictor for such schedules; each group of heads has a list of steps."""

    def evict(self, store: GroupStore, view: CacheView, read: Read) -> None:
        step = (store.steps or ())[view.scale]
        offered, chosen = self._offered(store, view, step)
        kept = _kept(view, step, chosen)
        if self._observer is not None:
            self._observer(view, kept)
        if step.held == 0:
            store.clear()
        elif not step.keeps_history:
            self._keep(store, view, read, step, offered, chosen, kept)

    def _offered(self, store: GroupStore, view: CacheView, step: Step) -> tuple[CacheView | None, Tensor | None]:
        """What the policy sees, and (B, H, keep) which of it is kept; None if it sees nothing, or keeps all."""
        if not step.stored or not step.offered or not step.held:
            return None, None
        offered = self._observe(view.offered(step.offered, sees_all=step.sees_all))
        keep = step.held - step.text
        if keep == offered.tokens:
            return offered, None
        if keep == 0:
            return offered, offered.positions.new_empty(*offered.positions.shape[:2], 0, dtype=torch.int64)
        return offered, self._select(offered, store.group, keep, step.quota)

    def _keep(
        self,
        store: GroupStore,
        view: CacheView,
        read: Read,
        step: Step,
        offered: CacheView | None,
        chosen: Tensor | None,
        kept: Tensor | None,
    ) -> None:
        """Stores the kept tokens with their counts, positions and statistics."""
        folds = not self._policy.merger.drops
        counts = _taken(view.counts, kept)
        if kept is None:
            self.keep_all(store, read, view.scale)
        elif not step.stored:
            _leave_runs(store, view, step)
        elif folds and offered is not None and chosen is not None and chosen.shape[2]:
            counts = self._fold_offered(store, view, _block(read), step, offered, chosen)
        elif step.begins_anew:
            current = Block.of(_block(read).both[:, :, read.history :])
            store.stored = None
            self._drop_others(store, view, current, 0, kept - read.history)
        else:
            self._drop_others(store, view, _block(read), read.history, kept)
        if not step.counted:
            counts = None
        elif counts is None and folds:  # a text alone, into which nothing is folded
            counts = view.table(one).expand(*view.k.shape[:2], step.held).clone()
        store.counts = counts
        store.positions = _taken(view.positions, kept) if step.gaps else None
        store.statistics = {
            name: _statistic(_taken(x, kept) if offered is None else _chosen(offered.statistics[name], chosen), step)
            for name, x in view.statistics.items()
        }

    def _fold_offered(
        self, store: GroupStore, view: CacheView, block: Block, step: Step, offered: CacheView, chosen: Tensor
    ) -> Tensor:
        """Folds the offered tokens into the chosen ones; returns the counts of all held tokens."""
        merger, codec = self._policy.merger, self._policy.codec
        store.stored = None
        with self._clock.stage(view.scale, "merge"):
            goes = self._answers.targets(offered, merger.assign(offered, chosen), chosen)
            index = view.table(ops.run_index, step.offered)
            target = goes.new_full(view.positions.shape, -1)
            target[:, :, : step.text] = ops.all_tokens(goes, 0, step.text)
            target.index_copy_(2, index, torch.where(goes < 0, goes, goes + step.text))
            counts = view.counts if view.counts is not None else view.table(one).expand(target.shape)
            weights = merger.weights(offered)
            if weights is not None:
                weights = counts.clone().index_copy_(2, index, self._answers.weights(offered, weights))
            means, folded = ops.fold(block.both, counts if weights is None else weights, counts, target, step.held)
        with self._clock.stage(view.scale, "store"):
            store.stored = key_values.dense(means) if codec.dense else key_values.encode(means, codec)
        return folded


def _kept(view: CacheView, step: Step, chosen: Tensor | None) -> Tensor | None:
    """(B, H, held) indices of all tokens that remain, text first; None if every token in view remains."""
    shape = view.positions.shape
    if chosen is None:
        if step.held == view.tokens:
            return None
        runs = step.remaining if step.held else ()
        return view.table(ops.run_index, runs).expand(*shape[:2], -1)
    places = view.table(ops.run_index, step.offered)
    text = view.table(ops.run_index, ((0, step.text),)).expand(*shape[:2], -1)
    return torch.cat([text, ops.at_positions(places, chosen)], dim=2)


def _leave_runs(store: GroupStore, view: CacheView, step: Step) -> None:
    """Drops from a history the maps that no later map reads, where everything else remains."""
    shape = view.positions.shape[:2]

    def left(encoded: Encoded) -> Encoded:
        where = next(iter(encoded.tokens.values())).device
        return encoded.gather(view.tables.get(ops.run_index, step.remaining, device=where).expand(*shape, -1))

    store.stored = tuple([left(encoded) for encoded in store.stored or ()])


def _block(read: Read) -> Block:
    """The block that attention read; wherever tokens are evicted it is in the scratch."""
    assert read.block is not None
    return read.block


def _taken(x: Tensor | None, kept: Tensor | None) -> Tensor | None:
    return x if x is None or kept is None else ops.gather_tokens(x, kept)


def _chosen(statistic: Tensor, chosen: Tensor | None) -> Tensor:
    return statistic if chosen is None else ops.gather_tokens(statistic, chosen)


def _statistic(kept: Tensor | None, step: Step) -> Tensor:
    """(B, H, held) float32 the observed statistic of tokens of maps, and zeros for text."""
    assert kept is not None
    text = step.held - kept.shape[2]
    return ops.tight(F.pad(kept, (text, 0)) if text else kept.float())
