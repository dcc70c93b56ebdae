"""The view: all that a selector, a merger or an observer may see of the cache."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping

from attrs import define, evolve, field, frozen
from torch import Tensor

from scalekv_core import ops
from scalekv_core.contracts.tables import Tables
from scalekv_core.shapes.schedule import ScaleSchedule

Asked = tuple[Tensor | None, ...]


@define(eq=False)
class AttentionMasses:
    """The attention masses computed so far at one scale, shared by all views of it.

    A mass belongs to the very tensors that it was computed from. So a view with further statistics finds it here, and one
    with other keys does not.
    """

    _computed: list[tuple[Asked, float, Tensor]] = field(factory=list, init=False)

    def get(self, q: Tensor, k: Tensor, counts: Tensor | None, queries: Tensor | None, softmax_scale: float) -> Tensor:
        """(B, H, N) the mass that :meth:`CacheView.attention_mass` returns for these tensors."""
        asked = (q, k, counts, queries)
        for known, scale, mass in self._computed:
            if scale == softmax_scale and all(x is y for x, y in zip(known, asked, strict=True)):
                return mass
        chosen = q if queries is None else q.index_select(2, queries)
        mass = ops.attention_mass(chosen, k, softmax_scale=softmax_scale, counts=counts)
        self._computed.append((asked, softmax_scale, mass))
        return mass

    def __iter__(self) -> Iterator[tuple[Tensor | None, Tensor]]:
        """(queries, mass) of each."""
        return ((asked[3], mass) for asked, _, mass in self._computed)

    def __len__(self) -> int:
        return len(self._computed)


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
        masses: what ``attention_mass`` has computed so far, shared by all views of this scale.
        tables: what ``table`` has made so far, shared by all views of the session.
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
    masses: AttentionMasses = field(factory=AttentionMasses, repr=False)
    tables: Tables = field(factory=Tables, repr=False)

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
        the same tensor of queries, so that selector and merger share it; so it is read-only, too.
        """
        return self.masses.get(self.q, self.k, self.counts, queries, self.softmax_scale)

    def table(self, make: Callable[..., Tensor], *args: Hashable) -> Tensor:
        """``make(*args, device=...)`` on the view's device, made once per session: for all that depends on sizes alone.

        The result is read-only. See :class:`~scalekv_core.contracts.tables.Tables`.
        """
        return self.tables.get(make, *args, device=self.q.device)

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
