"""The KV cache of one image (or batch): attention over history and current map, then eviction.

``attend`` is the one place where keys and values are read, dropped, folded and stored. Everything that depends on the
plan is decided on the host before the first token, so nothing here waits for the device.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import cast

import torch
from torch import Tensor

from scalekv_core import ops
from scalekv_core.cache.answers import AnswerCheck
from scalekv_core.cache.clock import Clock, NoClock
from scalekv_core.cache.eviction import Evictor, Observer
from scalekv_core.cache.finite import check_finite
from scalekv_core.cache.group_store import GroupStore, LayerStore, empty_stores
from scalekv_core.cache.inputs import InputCheck
from scalekv_core.cache.prefetch import CopyStreamOf, copy_stream_for
from scalekv_core.cache.reading import Read, Reader
from scalekv_core.cache.stepping import SteppedEvictor
from scalekv_core.cache.viewing import positions_of, view_of, with_current
from scalekv_core.contracts.plan import CachePlan
from scalekv_core.contracts.policy import Policy
from scalekv_core.contracts.tables import Tables, one
from scalekv_core.contracts.view import CacheView, take_runs

__all__ = ["KVCache", "Observer"]


class KVCache:
    """Keys and values of one image (or batch) under a plan and a policy.

    Args:
        plan: what every head may hold after every scale.
        policy: who selects, folds and encodes.
        check: ask the selector in every layer and check every answer, and that queries, keys, values and outputs are finite (a device sync
            each); otherwise only the first answer.
        clock: measures the stages.
        observer: is shown every view and what is kept.
        copy_stream_of: by which stream histories that the codec keeps elsewhere come to a device ahead of attention.
        tables: what depends on sizes alone, shared with other images; by default each image makes its own.
    """

    def __init__(
        self,
        plan: CachePlan,
        policy: Policy,
        *,
        check: bool = False,
        clock: Clock | None = None,
        observer: Observer | None = None,
        copy_stream_of: CopyStreamOf | None = None,
        tables: Tables | None = None,
    ) -> None:
        self.plan = plan
        self.policy = policy
        self._clock = clock or NoClock()
        self._shared_tables = tables
        self._last = len(plan.schedule) - 1
        self._layers = empty_stores(plan)
        self._inputs = InputCheck(plan, self._layers)
        self._check = check
        self._answers = AnswerCheck(policy, always=check)
        evictor = Evictor if plan.schedule.is_plain else SteppedEvictor
        self._evictor = evictor(policy, self._answers, self._clock, observer, always_ask=check)
        groups = [store for layer in self._layers for store in layer.groups]
        self._reader = Reader(plan, policy.codec, groups, copy_stream_of or partial(copy_stream_for, policy.codec))
        self._begin()

    def _begin(self) -> None:
        self.dropped = False
        self._tables = self._shared_tables or Tables()
        self.resident: list[int] = [0] * len(self.plan.schedule)
        self._inputs.forget()
        self._answers.begin()

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, *, softmax_scale: float, store: bool = True
    ) -> Tensor:
        """(B, g H, n, D) the attention of the current map over the history that it reads and itself.

        Afterwards the layer holds what its plan allows after this scale.

        Args:
            layer: which one, from 0.
            q: (B, g H, n, D) of the current map; g consecutive query heads share a key/value head, mostly one.
            k, v: (B, H, n, D) of the current map, as attention reads them.
            softmax_scale: factor on q.k.
            store: False where the map is passed once more: nothing is stored, and no policy is asked.

        Raises:
            SessionError: the map is not the one that the schedule has next, or rows or heads have changed.
            ContractError: the policy broke its contract.
        """
        held = self._inputs.next_map(layer, q, k, v)
        try:
            if self._check:
                check_finite(layer, held.scale, queries=q, keys=k, values=v)
            grouped = ops.side_by_side(q, k.shape[1])
            out = ops.apart(self._attend_layer(layer, held, grouped, k, v, softmax_scale, store), q.shape[1])
            if self._check:
                check_finite(layer, held.scale, outputs=out)
        except BaseException:
            self.close()  # half a scale is nothing to go on with
            raise
        if not store:
            return out
        if layer == len(self._layers) - 1:
            self.resident[held.scale] = self.resident_bytes()
        held.scale += 1
        return out

    def _attend_layer(
        self, layer: int, store: LayerStore, q: Tensor, k: Tensor, v: Tensor, softmax_scale: float, stores: bool
    ) -> Tensor:
        if len(store.groups) == 1:
            return self._attend_group(layer, store.scale, store.groups[0], q, k, v, softmax_scale, stores)
        out: Tensor | None = None
        for group in store.groups:
            index = group.head_index(q.device)
            q_part, k_part, v_part = (x.index_select(1, index) for x in (q, k, v))
            part = self._attend_group(layer, store.scale, group, q_part, k_part, v_part, softmax_scale, stores)
            out = torch.empty_like(q, dtype=part.dtype) if out is None else out  # under autocast not that of q
            out.index_copy_(1, index, part)
        return cast(Tensor, out)

    def _attend_group(
        self,
        layer: int,
        scale: int,
        store: GroupStore,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        softmax_scale: float,
        stores: bool,
    ) -> Tensor:
        step = None if store.steps is None else store.steps[scale]
        with self._clock.stage(scale, "read"):
            read = self._reader.read(store, scale, k, v, stores=stores)
            counts = with_current(store.counts, one, k.shape, self._tables)
        with self._clock.stage(scale, "attention"):
            if step is None or step.sees_all:
                out = ops.attend(q, read.k, read.v, softmax_scale=softmax_scale, counts=counts)
            else:
                seen = [x if x is None else take_runs(x, step.visible) for x in (read.k, read.v, counts)]
                out = ops.attend(
                    q, *cast("tuple[Tensor, Tensor]", seen[:2]), softmax_scale=softmax_scale, counts=seen[2]
                )
        if not stores:
            return out
        keep = store.group.held[scale]
        self.dropped |= keep < (read.tokens if step is None else step.remains) and scale < self._last
        if self._evictor.looks(keep) or (0 < keep and read.block is not None and not (step and step.keeps_history)):
            view = self._view(layer, scale, store, q, read, counts, softmax_scale)
            with _apart_from_autocast(q.device):
                self._evictor.evict(store, view, read)
        elif keep == 0:
            store.clear()
        elif read.block is None:
            self._keep_in_place(store, scale, read, counts)
        return out

    def _keep_in_place(self, store: GroupStore, scale: int, read: Read, counts: Tensor | None) -> None:
        """Stores everything unchanged, with no eviction, encoding or observer: the fast path of most calls."""
        self._evictor.keep_all(store, read, scale)
        store.counts = counts
        if store.positions is not None:
            gaps = store.steps is None or store.steps[scale].gaps
            store.positions = positions_of(store, self.plan.schedule, scale, read, self._tables) if gaps else None

    def _view(
        self,
        layer: int,
        scale: int,
        store: GroupStore,
        q: Tensor,
        read: Read,
        counts: Tensor | None,
        softmax_scale: float,
    ) -> CacheView:
        return view_of(
            store,
            read,
            self._tables,
            q=q,
            counts=counts,
            schedule=self.plan.schedule,
            layer=layer,
            scale=scale,
            softmax_scale=softmax_scale,
            statistics=self.policy.selector.statistics,
        )

    # -- what is held ---------------------------------------------------------------------------------------------

    def resident_bytes(self) -> int:
        """Bytes of all storage that the cache holds, each once; a view counts as the whole storage it keeps alive."""
        storages = [tensor.untyped_storage() for tensor in self.tensors()]
        return sum({id(storage): storage.nbytes() for storage in storages}.values())

    @property
    def scratch_bytes(self) -> int:
        """Bytes of the scratch buffers."""
        return self._reader.scratch.nbytes

    @property
    def complete(self) -> bool:
        """Whether every layer has seen every scale."""
        return all(store.scale == len(self.plan.schedule) for store in self._layers)

    def tensors(self) -> Iterator[Tensor]:
        """Every tensor that is held between scales, without the scratch."""
        for store in self._layers:
            for group in store.groups:
                yield from group.tensors()

    def held_tokens(self, layer: int) -> list[int]:
        """Tokens that each head of the layer holds now."""
        held = [0] * self.plan.heads
        for store in self._layers[layer].groups:
            for head in store.group.heads:
                held[head] = store.length
        return held

    def close(self) -> None:
        """Drops everything and frees the memory."""
        for store in self._layers:
            store.clear()
        self._reader.scratch.clear()
        self._begin()


def _apart_from_autocast(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """A block without autocast, which would compute scores and ranges in half precision."""
    if device.type in ("cpu", "cuda") and torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return contextlib.nullcontext()
