"""The unmodified cache: concatenates all keys and values and evicts nothing.

Every policy is measured against it, so it does what the published code does, waste included: it stores the last map, which
no later scale attends to, and copies the whole history at every scale. Where the schedule says which maps are read, a map is
stored until the next one begins, and dropped then if it is not read any more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from itertools import accumulate, pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from scalekv_core import ops
from scalekv_core.cache.clock import Clock, NoClock
from scalekv_core.contracts.steps import joined
from scalekv_core.contracts.view import take_runs
from scalekv_core.shapes.schedule import ScaleSchedule


class ConcatCache:
    """Keeps the keys and values of all scales and layers of one image (or batch).

    It is an :class:`~scalekv_core.contracts.adapter.AttentionCache`.

    Args:
        schedule: of the image; without one every map attends to all earlier ones.
        key_dtype: dtype in which keys are stored, by default that of the model's keys. Attention reads them in the
            dtype of the queries.
        repeats: with grouped heads, copy keys and values to every query head before attention, as published code does; by
            default the queries of a group stand under their key head.
        clock: measures the stages "read" and "attention".

    Attributes:
        keys, values: {layer: (B, H, tokens so far, D)}.

    >>> cache = ConcatCache()
    >>> maps = torch.ones(1, 1, 1, 8), torch.zeros(1, 1, 4, 8)
    >>> [tuple(cache.attend(0, x, x, x, softmax_scale=1.0).shape) for x in maps]
    [(1, 1, 1, 8), (1, 1, 4, 8)]
    >>> cache.keys[0].shape[2], cache.resident_bytes()
    (5, 320)
    """

    scratch_bytes = 0

    def __init__(
        self,
        schedule: ScaleSchedule | None = None,
        *,
        key_dtype: torch.dtype | None = None,
        repeats: bool = False,
        clock: Clock | None = None,
    ) -> None:
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}
        self._reads = None if schedule is None or schedule.reads is None else schedule
        self._held: dict[int, dict[int, int]] = {}  # tokens of each map, by layer
        self._key_dtype, self._repeats = key_dtype, repeats
        self._clock = clock or NoClock()
        self._scales: Counter[int] = Counter()

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, *, softmax_scale: float, store: bool = True
    ) -> Tensor:
        """(B, g H, n, D) the attention over everything stored for this layer that the current map reads."""
        scale = self._scales[layer]
        self._scales[layer] += store
        with self._clock.stage(scale, "read"):
            k = k.to(self._key_dtype or k.dtype)
            if self._reads is not None:
                self._drop_unread(layer, scale)
            if layer in self.keys:
                k = torch.cat((self.keys[layer], k), dim=2)
                v = torch.cat((self.values[layer], v), dim=2)
            if store:
                self.keys[layer], self.values[layer] = k, v
            if self._reads is not None:
                visible = self._visible(layer, scale, q.shape[2], store=store)
                k, v = take_runs(k, visible), take_runs(v, visible)
        with self._clock.stage(scale, "attention"):
            if self._repeats and (group := q.shape[1] // k.shape[1]) > 1:
                k, v = (x.repeat_interleave(group, dim=1) for x in (k, v))
            grouped = ops.side_by_side(q, k.shape[1])
            out = F.scaled_dot_product_attention(grouped, k.to(q.dtype), v, scale=softmax_scale)
            return ops.apart(out, q.shape[1])

    def _drop_unread(self, layer: int, scale: int) -> None:
        """Drops the maps that neither the current map nor a later one reads."""
        schedule, held = self._reads, self._held.setdefault(layer, {})
        alive = schedule.alive[scale - 1] if schedule is not None and scale else ()
        if all(m in alive for m in held):
            return
        runs = tuple(run for m, run in _runs(held).items() if m in alive)
        self._held[layer] = {m: tokens for m, tokens in held.items() if m in alive}
        for kept in (self.keys, self.values):
            kept[layer] = torch.cat([kept[layer][:, :, start:stop] for start, stop in runs or ((0, 0),)], dim=2)

    def _visible(self, layer: int, scale: int, tokens: int, *, store: bool) -> tuple[tuple[int, int], ...]:
        """Ranges of the stored tokens that the current map attends to; its own tokens come last."""
        held = {**self._held[layer], scale: tokens}
        if store:
            self._held[layer] = held
        read = () if self._reads is None else self._reads.read_by(scale)
        return joined(run for m, run in _runs(held).items() if m in read or m == scale)

    def resident_bytes(self) -> int:
        """Bytes of all stored keys and values."""
        return sum(x.nbytes for held in (self.keys, self.values) for x in held.values())

    def close(self) -> None:
        """Frees everything."""
        self.keys.clear()
        self.values.clear()
        self._scales.clear()
        self._held.clear()


def _runs(held: Mapping[int, int]) -> dict[int, tuple[int, int]]:
    """{map: (start, stop)} of maps that are stored one after the other."""
    edges = pairwise(accumulate(held.values(), initial=0))
    return dict(zip(held, edges, strict=True))
