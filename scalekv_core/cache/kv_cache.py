"""The KV cache of one image (or batch): attention over history and current map, then the cut.

``attend`` is the one place where keys and values are read, dropped, folded and stored. Everything that depends on the
plan is decided on the host before the first token, so nothing here waits for the device.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from attrs import define, evolve, field
from torch import Tensor

from scalekv_core import ops
from scalekv_core.cache.clock import Clock, NoClock
from scalekv_core.cache.prefetch import CopyStreamOf, Scratch, Stored, copy_stream_for
from scalekv_core.contracts.encoded import Encoded
from scalekv_core.contracts.plan import CachePlan, HeadGroup
from scalekv_core.contracts.policy import Policy
from scalekv_core.contracts.strategies import described
from scalekv_core.contracts.view import CacheView
from scalekv_core.errors import ContractError, SessionError
from scalekv_core.planning.footprint import scratch_slots

Observer = Callable[[CacheView, Tensor | None], None]
"""Called after every scale of every head group with what was seen and which tokens stay (None: all)."""


@define(eq=False)
class _GroupStore:
    """What one group of heads holds: one dense block."""

    group: HeadGroup
    place: int  # in the order in which groups attend
    device: torch.device | None = None  # where it attended last
    index: Tensor | None = None  # the group's heads on the device; None where it is all heads of the layer
    keys: Encoded | None = None
    values: Encoded | None = None
    positions: Tensor | None = None  # (B, Hg, N) int32; None as long as they are the latest without a gap
    counts: Tensor | None = None  # (B, Hg, N) float32; None as long as nothing was folded: they are 1
    statistics: dict[str, Tensor] = field(factory=dict)

    @property
    def stored(self) -> Stored | None:
        return None if self.keys is None or self.values is None else (self.keys, self.values)

    @property
    def length(self) -> int:
        return 0 if self.keys is None else self.keys.length

    def tensors(self) -> Iterator[Tensor]:
        for encoded in (self.keys, self.values):
            if encoded is not None:
                yield from encoded.tensors()
        yield from (x for x in (self.positions, self.counts, *self.statistics.values()) if x is not None)

    def clear(self) -> None:
        self.keys = self.values = self.positions = self.counts = None
        self.statistics = {}


@define(eq=False)
class _LayerStore:
    groups: list[_GroupStore]
    scale: int = 0  # the scale that the layer's next attend belongs to


class KVCache:
    """Keys and values of one image (or batch) under a plan and a policy.

    Args:
        plan: what every head may hold after every scale.
        policy: who selects, folds and encodes.
        check: check every answer of the selector (costs a device sync each); otherwise only the first one.
        clock: measures the stages.
        observer: is shown every view and what stays.
        copy_stream_of: by which stream histories that the codec keeps elsewhere come to a device ahead of attention.
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
    ) -> None:
        self.plan = plan
        self.policy = policy
        self._check_always = check
        self._clock = clock or NoClock()
        self._observer = observer
        self._scratch = Scratch(
            scratch_slots(plan), policy.codec, copy_stream_of or partial(copy_stream_for, policy.codec)
        )
        places = itertools.count()
        self._layers = [_LayerStore([_GroupStore(group, next(places)) for group in groups]) for groups in plan.groups]
        self._in_order = [store for layer in self._layers for store in layer.groups]
        self._begin()

    def _begin(self) -> None:
        self.dropped = False
        self.resident: list[int] = [0] * len(self.plan.schedule)
        self._like: tuple[int, int, torch.dtype] | None = None  # rows, head width and dtype of this image
        self._unchecked = {"selector", "merger"}  # whose first answer is still to be checked

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, *, softmax_scale: float) -> Tensor:
        """(B, H, n, D) the attention of the current map over the history and itself.

        Afterwards the layer holds what its plan allows after this scale.

        Args:
            layer: which one, from 0.
            q, k, v: (B, H, n, D) of the current map, as attention reads them.
            softmax_scale: factor on q.k.

        Raises:
            SessionError: the map is not the one that the schedule has next, or rows or heads have changed.
            ContractError: the policy broke its contract.
        """
        store = self._check_input(layer, q, k, v)
        try:
            out = self._attend_layer(layer, store, q, k, v, softmax_scale)
        except BaseException:
            self.close()  # half a scale is nothing to go on with
            raise
        if layer == self.plan.layers - 1:
            self.resident[store.scale] = self.resident_bytes()
        store.scale += 1
        return out

    def _attend_layer(
        self, layer: int, store: _LayerStore, q: Tensor, k: Tensor, v: Tensor, softmax_scale: float
    ) -> Tensor:
        if len(store.groups) == 1:
            return self._attend_group(layer, store.scale, store.groups[0], q, k, v, softmax_scale)
        out: Tensor | None = None
        for group in store.groups:
            index = self._head_index(group, q.device)
            q_part, k_part, v_part = (x.index_select(1, index) for x in (q, k, v))
            part = self._attend_group(layer, store.scale, group, q_part, k_part, v_part, softmax_scale)
            out = torch.empty_like(q, dtype=part.dtype) if out is None else out  # under autocast not that of q
            out.index_copy_(1, index, part)
        return cast(Tensor, out)

    def resident_bytes(self) -> int:
        """Bytes of all storage that is really held, each storage once, views by what they keep alive."""
        storages = {}
        for tensor in self.tensors():
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
        return sum(storages.values())

    @property
    def scratch_bytes(self) -> int:
        """Bytes of the scratch buffers."""
        return self._scratch.nbytes

    @property
    def complete(self) -> bool:
        """Whether every layer has seen every scale."""
        return all(store.scale == len(self.plan.schedule) for store in self._layers)

    def tensors(self) -> Iterator[Tensor]:
        """Every tensor that is held between scales (the scratch is not)."""
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
        """Forgets everything and gives the memory back."""
        for store in self._layers:
            store.scale = 0
            for group in store.groups:
                group.clear()
        self._scratch.clear()
        self._begin()

    # -- one group of heads ---------------------------------------------------------------------------------------

    def _attend_group(
        self, layer: int, scale: int, store: _GroupStore, q: Tensor, k: Tensor, v: Tensor, softmax_scale: float
    ) -> Tensor:
        keep, total = store.group.held[scale], store.length + k.shape[2]
        self.dropped |= keep < total and scale < len(self.plan.schedule) - 1
        in_place = keep == total and self.policy.codec.dense
        with self._clock.stage(scale, "read"):
            keys, values = self._whole(store, k, v, in_place=in_place)
            counts = None if store.counts is None else F.pad(store.counts, (0, k.shape[2]), value=1.0)
            store.device = k.device
            self._fetch_next(store, scale, k)
        with self._clock.stage(scale, "attention"):
            out = ops.attend(q, keys, values, softmax_scale=softmax_scale, counts=counts)
        if keep == 0 and self._observer is None:
            store.clear()
            return out
        view = self._view(layer, scale, store, q, keys, values, counts, softmax_scale)
        with _apart_from_autocast(q.device):
            self._cut(store, view, k, v, in_place=in_place)
        return out

    def _cut(self, store: _GroupStore, view: CacheView, k: Tensor, v: Tensor, *, in_place: bool) -> None:
        """Leaves what the plan allows after this scale of the history and the current map k, v."""
        keep, total = store.group.held[view.scale], view.tokens
        view = self._observe(view) if keep else view
        kept = None if keep in (0, total) else self._select(view, store.group, keep)
        if self._observer is not None:
            self._observer(view, kept if keep else torch.empty(*k.shape[:2], 0, dtype=torch.int64, device=k.device))
        if keep == 0:
            store.clear()
        elif in_place:
            store.keys, store.values = Encoded({"x": view.k}), Encoded({"x": view.v})
            self._carry(store, view, view.counts, None)
        else:
            self._store(store, view, k, v, kept)

    def _whole(self, store: _GroupStore, k: Tensor, v: Tensor, *, in_place: bool) -> tuple[Tensor, Tensor]:
        """History and current map, (B, H, N, D) each: new memory that will be kept, or the shared scratch."""
        if not in_place:
            return self._scratch.whole(store.stored, k, v)
        codec, history = self.policy.codec, store.length
        whole = []
        for name, stored, current in (("key", store.keys, k), ("value", store.values, v)):
            buffer = current.new_empty(*current.shape[:2], history + current.shape[2], current.shape[3])
            if stored is not None:
                codec.decode(stored, name, buffer[:, :, :history])  # type: ignore[arg-type]
            buffer[:, :, history:] = current
            whole.append(buffer)
        return whole[0], whole[1]

    def _fetch_next(self, store: _GroupStore, scale: int, k: Tensor) -> None:
        """Lets the history of the group that attends next come while this one computes; not if it lies elsewhere."""
        following = self._in_order[(store.place + 1) % len(self._in_order)]
        scale += following.place == 0
        if following is store or following.stored is None or following.device != k.device:
            return
        if scale < len(self.plan.schedule):
            self._scratch.fetch(following.stored, k, len(following.group.heads), self.plan.schedule.tokens[scale])

    def _view(
        self,
        layer: int,
        scale: int,
        store: _GroupStore,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        counts: Tensor | None,
        softmax_scale: float,
    ) -> CacheView:
        return CacheView(
            q=q,
            k=k,
            v=v,
            positions=self._positions(store, k, scale),
            counts=counts,
            statistics={name: self._statistic(store, name, k, q.shape[2]) for name in self.policy.selector.statistics},
            schedule=self.plan.schedule,
            layer=layer,
            scale=scale,
            heads=store.group.heads,
            softmax_scale=softmax_scale,
        )

    def _positions(self, store: _GroupStore, k: Tensor, scale: int) -> Tensor:
        """(B, H, N) int32; as long as the tokens are the latest without a gap they are counted, not stored."""
        stop = self.plan.schedule.seen[scale]
        start = stop - k.shape[2] if store.positions is None else self.plan.schedule.history[scale]
        counted = torch.arange(start, stop, dtype=torch.int32, device=k.device).expand(k.shape[0], k.shape[1], -1)
        return counted if store.positions is None else torch.cat([store.positions, counted], dim=2)

    def _statistic(self, store: _GroupStore, name: str, k: Tensor, current: int) -> Tensor:
        """(B, H, N) what was observed so far; zero for the current map."""
        if name not in store.statistics:
            return k.new_zeros(k.shape[:3], dtype=torch.float32)
        return F.pad(store.statistics[name], (0, current))

    def _observe(self, view: CacheView) -> CacheView:
        """The view with the statistics that the selector has brought up to date."""
        selector = self.policy.selector
        if not selector.statistics:
            return view
        with self._clock.stage(view.scale, "observe"):
            statistics = dict(selector.observe(view))
        for name in selector.statistics:
            if name not in statistics or statistics[name].shape != view.positions.shape:
                raise ContractError(
                    f"{self._who(view)} must return statistic {name!r} of shape {tuple(view.positions.shape)} from observe; "
                    f"got {tuple(statistics[name].shape) if name in statistics else 'nothing'}"
                )
        return evolve(view, statistics={name: ops.tight(statistics[name].float()) for name in selector.statistics})

    def _select(self, view: CacheView, group: HeadGroup, keep: int) -> Tensor:
        selector = self.policy.selector
        with self._clock.stage(view.scale, "select"):
            if group.quota is None:
                kept = selector.select(view, keep)
            else:
                kept = selector.select_by_source(view, self._source_parts(view, group))
        self._check_kept(view, kept, keep)
        return kept

    def _source_parts(self, view: CacheView, group: HeadGroup) -> list[tuple[int, int, int]]:
        """(start, stop, keep) of every source scale's tokens, which lie side by side and equally many in every row."""
        assert group.quota is not None
        before = group.quota[view.scale - 1] if view.scale else ()
        parts, start = [], 0
        for source in range(view.scale + 1):
            there = view.current if source == view.scale else before[source]
            parts.append((start, start + there, group.quota[view.scale][source]))
            start += there
        return parts

    def _store(self, store: _GroupStore, view: CacheView, k: Tensor, v: Tensor, kept: Tensor | None) -> None:
        """Puts what stays into new, tight memory. The old is let go first where the new does not come from it."""
        codec = self.policy.codec
        folds = kept is not None and not self.policy.merger.drops
        old_keys, old_values = (None, None) if folds or codec.dense else (store.keys, store.values)
        store.keys = store.values = None
        if folds:
            with self._clock.stage(view.scale, "merge"):
                keys, values, counts = self._fold(view, cast(Tensor, kept))
            with self._clock.stage(view.scale, "store"):
                store.keys = codec.encode(keys, "key").owned(keys)
                store.values = codec.encode(values, "value").owned(values)
                self._carry(store, view, counts, kept)
            return
        with self._clock.stage(view.scale, "store"):
            store.keys = codec.keep(old_keys, k, view.k, kept, "key").owned(k, view.k)
            del old_keys
            store.values = codec.keep(old_values, v, view.v, kept, "value").owned(v, view.v)
            self._carry(store, view, view.counts, kept)

    def _fold(self, view: CacheView, kept: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        target = self.policy.merger.assign(view, kept)
        keep = kept.shape[2]
        who = f"merger {type(self.policy.merger).__name__}, layer {view.layer} at scale {view.scale},"
        wanted = view.positions.shape
        if not isinstance(target, Tensor) or target.shape != wanted or target.dtype != torch.int64:
            raise ContractError(f"{who} returned {described(target)}; wanted int64 {tuple(wanted)}")
        if self._to_check("merger"):
            _check_targets(who, target, kept)
        counts = view.counts if view.counts is not None else torch.ones_like(view.positions, dtype=torch.float32)
        weights = self.policy.merger.weights(view)
        if weights is None:
            weights = counts
        elif not isinstance(weights, Tensor) or weights.shape != wanted or weights.dtype != torch.float32:
            raise ContractError(f"{who} returned weights {described(weights)}; wanted float32 {tuple(wanted)}")
        keys, values = (ops.fold(x, weights, target, keep) for x in (view.k, view.v))
        return keys, values, ops.fold_counts(counts, target, keep)

    def _carry(self, store: _GroupStore, view: CacheView, counts: Tensor | None, kept: Tensor | None) -> None:
        """Takes positions and statistics along with the tokens that stay, and their counts, which only folding changes."""
        store.counts = counts
        if kept is None:
            store.positions = None if store.positions is None else view.positions
            store.statistics = dict(view.statistics)
            return
        store.positions = ops.gather_tokens(view.positions, kept)
        store.statistics = {name: ops.gather_tokens(x, kept) for name, x in view.statistics.items()}

    # -- refusals -------------------------------------------------------------------------------------------------

    def _check_input(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> _LayerStore:
        schedule = self.plan.schedule
        if not 0 <= layer < len(self._layers):
            raise SessionError(
                f"attention of layer {layer} was called; the plan is for layers 0 to {len(self._layers) - 1}"
            )
        store = self._layers[layer]
        if store.scale >= len(schedule):
            raise SessionError(
                f"layer {layer} has seen all {len(schedule)} maps of the schedule and is given another one"
            )
        rows, width, dtype = self._like or (q.shape[0], q.shape[-1], q.dtype)
        wanted = (rows, self.plan.heads, schedule.tokens[store.scale], width)
        if any(x.shape != wanted or x.dtype != dtype for x in (q, k, v)):
            got = ", ".join(f"{name} {tuple(x.shape)} {x.dtype}" for name, x in (("q", q), ("k", k), ("v", v)))
            raise SessionError(
                f"layer {layer} at scale {store.scale} wants q, k and v of (rows, heads, tokens, width) = {wanted} "
                f"in {dtype}; got {got}"
            )
        if torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad):
            raise SessionError(
                "attention was asked for gradients, and a cache that is cut has none; draw under torch.inference_mode()"
            )
        self._like = rows, width, dtype
        return store

    def _check_kept(self, view: CacheView, kept: Tensor, keep: int) -> None:
        wanted = (*view.positions.shape[:2], keep)
        if not isinstance(kept, Tensor) or kept.shape != wanted or kept.dtype != torch.int64:
            raise ContractError(
                f"{self._who(view)} returned {described(kept)}; wanted int64 {wanted}: "
                f"its capacity is {keep} of {view.tokens} tokens"
            )
        if self._to_check("selector"):
            _check_indices(self._who(view), kept, view.tokens)

    def _to_check(self, part: str) -> bool:
        """The first answer is always checked, the others only if asked for: a check waits for the device."""
        first = part in self._unchecked
        self._unchecked.discard(part)
        return first or self._check_always

    def _who(self, view: CacheView) -> str:
        return f"selector {type(self.policy.selector).__name__} of policy {self.policy.name!r}, layer {view.layer} at scale {view.scale},"

    def _head_index(self, store: _GroupStore, device: torch.device) -> Tensor:
        if store.index is None or store.index.device != device:
            store.index = torch.tensor(store.group.heads, device=device)
        return store.index


def _apart_from_autocast(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """A block in which autocast is off: in half precision scores and ranges would not be what they are without it."""
    on = device.type in ("cpu", "cuda")
    return torch.autocast(device.type, enabled=False) if on else contextlib.nullcontext()


def _check_indices(who: str, kept: Tensor, tokens: int) -> None:
    if int(kept.min()) < 0 or int(kept.max()) >= tokens:
        raise ContractError(f"{who} returned an index outside of 0..{tokens - 1}")
    if not bool((kept[..., 1:] > kept[..., :-1]).all()):
        raise ContractError(f"{who} returned indices that are not ascending and unique")


def _check_targets(who: str, target: Tensor, kept: Tensor) -> None:
    keep = kept.shape[2]
    if int(target.min()) < -1 or int(target.max()) >= keep:
        raise ContractError(f"{who} folded a token into one outside of 0..{keep - 1} (or -1)")
    if not torch.equal(target.gather(2, kept), ops.all_tokens(kept, 0, keep)):
        raise ContractError(f"{who} did not leave every kept token where it is")
