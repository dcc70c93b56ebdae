"""The view: all that a selector, a merger or an observer may see of the cache."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence

import torch
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

    The last n of the N tokens are the current map, seen whole. Tensors are read-only by contract. A policy sees no token that
    no later map reads, and none of a text prefix: schedule, scale and positions are then those of the maps alone.

    Attributes:
        q: (B, H, g n, D) queries of the current map, exactly as attention used them: n of each of the g query heads that
            share the key/value head, one head after the other. Mostly g = 1.
        k, v: (B, H, N, D) keys and values, exactly as attention used them.
        positions: (B, H, N) integers, the index of each token in the full sequence of the schedule; ascending.
        counts: (B, H, N) how many tokens each one stands for, or None where all stand for themselves.
        statistics: {name: (B, H, N)}: for ``observe`` what it returned at the last scale, zero for the current map; for
            ``select`` and ``assign`` what ``observe`` has just returned.
        schedule, layer, scale: where we are; ``scale`` is that of the current map.
        heads: which heads of the layer these are.
        softmax_scale: the factor on q.k in the attention.
        masses: what ``attention_mass`` has computed so far, shared by all views of this scale.
        within: all that attention has read and where in it these tokens are, if there were others.
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
    within: Within | None = field(default=None, repr=False)

    @property
    def tokens(self) -> int:
        """N, the cached tokens and the current map."""
        return self.k.shape[2]

    @property
    def current(self) -> int:
        """n, the tokens of the current map."""
        return self.schedule.tokens[self.scale]

    @property
    def group(self) -> int:
        """g, the query heads that share a key/value head."""
        return self.q.shape[2] // self.current

    @property
    def history(self) -> int:
        """N - n, the cached tokens."""
        return self.tokens - self.current

    @property
    def map(self) -> tuple[int, int, int]:
        """(t, h, w) of the current map."""
        return self.schedule.maps[self.scale]

    def attention_mass(self, queries: Tensor | None = None) -> Tensor:
        """(B, H, N) the attention that each token gets, summed over queries (all of the map, or those given) and query heads.

        Args:
            queries: indices into the current map, 1-D.

        A share of the attention to all that the map has read, a text prefix and what is dropped now included.
        Streamed in chunks of at most :data:`scalekv_core.ops.CHUNK_BYTES`; never an n x N matrix at once. Computed once for
        the same tensor of queries, so that selector and merger share it; so it is read-only, too.
        """
        if self.within is not None:
            return take_runs(self.within.view.attention_mass(queries), self.within.runs)
        if queries is not None and self.group > 1:
            queries = self.table(_of_every_head, self.current, self.group).index_select(1, queries).flatten()
        return self.masses.get(self.q, self.k, self.counts, queries, self.softmax_scale)

    def queries(self, index: Tensor) -> Tensor:
        """(B, H, g m, D) queries of these m tokens of the current map (1-D indices), of all query heads."""
        if self.group > 1:
            index = self.table(_of_every_head, self.current, self.group).index_select(1, index).flatten()
        return self.q.index_select(2, index)

    def table(self, make: Callable[..., Tensor], *args: Hashable) -> Tensor:
        """``make(*args, device=...)`` on the view's device, made once per session: for all that depends on sizes alone.

        The result is read-only. See :class:`~scalekv_core.contracts.tables.Tables`.
        """
        return self.tables.get(make, *args, device=self.q.device)

    def slice(self, start: int, stop: int) -> CacheView:
        """The same view, restricted to the tokens ``start:stop``."""
        return self.take(((start, stop),))

    def take(self, runs: Sequence[tuple[int, int]]) -> CacheView:
        """The same view, restricted to the tokens of these runs (start, stop)."""
        return evolve(
            self,
            k=take_runs(self.k, runs),
            v=take_runs(self.v, runs),
            positions=take_runs(self.positions, runs),
            counts=None if self.counts is None else take_runs(self.counts, runs),
            statistics={name: take_runs(value, runs) for name, value in self.statistics.items()},
            within=None,
        )

    def offered(self, runs: Sequence[tuple[int, int]], *, sees_all: bool) -> CacheView:
        """What a policy sees of it: the tokens of these runs, with schedule, scale and positions of the maps alone.

        Args:
            runs: (start, stop) of the tokens that later maps read, without a text prefix.
            sees_all: whether the current map attends to all tokens in view.
        """
        view = self.take(runs)
        prefix = self.schedule.prefix
        return evolve(
            view,
            schedule=self.schedule.without_prefix,
            scale=self.scale - prefix,
            positions=view.positions - self.schedule.tokens[0] if prefix else view.positions,
            masses=AttentionMasses(),
            within=Within(self, tuple(runs)) if sees_all else None,
        )


@frozen(eq=False)
class Within:
    """A view and the runs (start, stop) of its tokens that another one has."""

    view: CacheView
    runs: Sequence[tuple[int, int]]


def take_runs(x: Tensor, runs: Sequence[tuple[int, int]]) -> Tensor:
    """(B, H, tokens of the runs, ...) of x (B, H, N, ...): a view of it, if there is but one run."""
    parts = [x[:, :, start:stop] for start, stop in runs]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


def _of_every_head(current: int, group: int, *, device: torch.device) -> Tensor:
    """(g, n) where the queries of the current map lie, head by head."""
    return torch.arange(group * current, device=device).view(group, current)
