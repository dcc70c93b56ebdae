"""The view: all that a selector, a merger or an observer may see of the cache."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import evolve, field, frozen
from torch import Tensor

from scalekv_core import ops
from scalekv_core.shapes.schedule import ScaleSchedule


@frozen(eq=False, kw_only=True)
class CacheView:
    """All that a selector or merger may see of one group of heads, right after a scale's attention.

    The last n of the N tokens are the current map, seen whole. Tensors are read-only by contract.

    Attributes:
        q: (B, H, n, D) queries of the current map, exactly as attention used them.
        k, v: (B, H, N, D) keys and values, exactly as attention used them.
        positions: (B, H, N) integers, the index of each token in the full sequence of the schedule; ascending.
        counts: (B, H, N) how many tokens each one stands for, or None where all stand for themselves.
        statistics: {name: (B, H, N)}: for ``observe`` what it returned at the last scale, zero for the current map; for
            ``select`` and ``assign`` what ``observe`` has just returned.
        schedule, layer, scale: where we are; ``scale`` is that of the current map.
        heads: which heads of the layer these are.
        softmax_scale: the factor on q.k in the attention.
        asked: {id: (queries, mass)} what ``attention_mass`` has answered so far; its own business.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    positions: Tensor
    counts: Tensor | None = None
    statistics: Mapping[str, Tensor] = field(factory=dict)
    schedule: ScaleSchedule
    layer: int
    scale: int
    heads: tuple[int, ...]
    softmax_scale: float
    asked: dict[int, tuple[Tensor | None, Tensor]] = field(factory=dict, init=False, repr=False)

    @property
    def tokens(self) -> int:
        """N, the cached tokens and the current map."""
        return self.k.shape[2]

    @property
    def current(self) -> int:
        """n, the tokens of the current map."""
        return self.q.shape[2]

    @property
    def history(self) -> int:
        """N - n, the cached tokens."""
        return self.tokens - self.current

    @property
    def map(self) -> tuple[int, int, int]:
        """(t, h, w) of the current map."""
        return self.schedule.maps[self.scale]

    def attention_mass(self, queries: Tensor | None = None) -> Tensor:
        """(B, H, N) the attention that each token gets, summed over queries (all of the map, or those given).

        Args:
            queries: indices into the current map, 1-D.

        Streamed in chunks of at most :data:`scalekv_core.ops.CHUNK_BYTES`; never an n x N matrix at once. Computed once for
        the same tensor of queries, so that a merger need not pay for what the selector has asked; so it is read-only, too.
        """
        if id(queries) not in self.asked:
            q = self.q if queries is None else self.q.index_select(2, queries)
            mass = ops.attention_mass(q, self.k, softmax_scale=self.softmax_scale, counts=self.counts)
            self.asked[id(queries)] = queries, mass  # with the queries themselves, so that nothing else gets their id
        return self.asked[id(queries)][1]

    def slice(self, start: int, stop: int) -> CacheView:
        """The same view, restricted to the tokens ``start:stop``."""
        return evolve(
            self,
            k=self.k[:, :, start:stop],
            v=self.v[:, :, start:stop],
            positions=self.positions[:, :, start:stop],
            counts=None if self.counts is None else self.counts[:, :, start:stop],
            statistics={name: value[:, :, start:stop] for name, value in self.statistics.items()},
        )
