"""The cache as anybody would write it: lists of positions in plain Python. Slow, obvious, and trusted."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from attrs import define, evolve, field, frozen
from hypothesis import strategies as st
from torch import Tensor

from scalekv_core import (
    AttentionProfile,
    BudgetAllocator,
    CacheCodec,
    CacheGeometry,
    CachePlan,
    CacheView,
    Encoded,
    KVCache,
    LayerClassifier,
    LayerRoles,
    Policy,
    ScaleSchedule,
    ScoringSelector,
    TokenMerger,
    TokenSelector,
)
from scalekv_core.contracts.encoded import Kind
from scalekv_core.testing import toy

# -- strategies of a policy, all of them functions of what they see ------------------------------------------------


def hashed(content: Tensor, positions: Tensor, layer: int, heads: Sequence[int], seed: int) -> Tensor:
    """(B, H, N) int64 all different: a number that depends on place and content, so that every row chooses its own."""
    head = torch.tensor(heads).view(1, -1, 1)
    mixed = positions.long() * 7919 + layer * 104_729 + head * 1_299_709 + (content.double() * 997).long() * 31 + seed
    return mixed % 10_007 * 4096 + positions


@frozen
class HashScores(ScoringSelector):
    """A selector by score: of position and value, or of the position alone where a codec or merger changes values."""

    seed: int = 0
    by_value: bool = True

    def score(self, view: CacheView, keep: int) -> Tensor:
        return hashed(view.v[..., 0] * self.by_value, view.positions, view.layer, view.heads, self.seed)


@frozen
class HashPicks(TokenSelector):
    """The same choice, made by the general contract: where there are quotas, source by source."""

    seed: int = 0

    def select(self, view: CacheView, keep: int) -> Tensor:
        assert 0 < keep < view.tokens
        scores = hashed(view.v[..., 0], view.positions, view.layer, view.heads, self.seed)
        return scores.topk(keep, dim=2).indices.sort(dim=2).values


@frozen
class Sums(HashScores):
    """A selector with two running statistics; whole numbers, so that sums are exact."""

    statistics: ClassVar[tuple[str, ...]] = ("sum", "age")

    def observe(self, view: CacheView) -> dict[str, Tensor]:
        before = view.statistics
        assert all(not x[:, :, view.history :].any() for x in before.values()), "zero for the current map"
        assert {torch.float32} == {x.dtype for x in before.values()}, "whatever the keys are"
        added = view.positions + (view.scale + 1) * 100
        loose = torch.stack([before["age"] + 1] * 2)[0]  # a view of something larger
        return {"age": loose, "sum": (before["sum"] + added).double(), "unasked": added}


@frozen
class FoldIntoNearest(TokenMerger):
    """Every other token goes into the kept one whose position is nearest (the earlier of two)."""

    def assign(self, view: CacheView, kept: Tensor) -> Tensor:
        chosen = view.positions.gather(2, kept)
        return (view.positions.unsqueeze(3) - chosen.unsqueeze(2)).abs().long().argmin(dim=3)


@frozen
class Half(CacheCodec):
    """float16, whatever attention reads."""

    def encode(self, x: Tensor, kind: Kind, *, like: Encoded | None = None) -> Encoded:
        return Encoded({"half": x.to(torch.float16, copy=True, memory_format=torch.contiguous_format)})

    def decode(self, stored: Encoded, kind: Kind, out: Tensor) -> None:
        out.copy_(stored.tokens["half"])

    def nbytes(
        self, kind: Kind, *, rows: int, heads: int, tokens: int, maps: int, head_dim: int, dtype: torch.dtype
    ) -> int:
        return rows * heads * tokens * head_dim * 2


@frozen
class Int8(CacheCodec):
    """Eight bits with a range per token."""

    def encode(self, x: Tensor, kind: Kind, *, like: Encoded | None = None) -> Encoded:
        largest = x.float().abs().amax(dim=3, keepdim=True).clamp_min(1e-6)
        return Encoded({"codes": (x / largest * 127).round().to(torch.int8), "largest": largest})

    def decode(self, stored: Encoded, kind: Kind, out: Tensor) -> None:
        out.copy_(stored.tokens["codes"] * (stored.tokens["largest"] / 127))

    def nbytes(
        self, kind: Kind, *, rows: int, heads: int, tokens: int, maps: int, head_dim: int, dtype: torch.dtype
    ) -> int:
        return rows * heads * tokens * (head_dim + 4)


@frozen
class Int8PerChannel(CacheCodec):
    """Eight bits with a range per channel, taken from the first map that is stored."""

    def encode(self, x: Tensor, kind: Kind, *, like: Encoded | None = None) -> Encoded:
        largest = like.ranges["largest"] if like else x.float().abs().amax(dim=2, keepdim=True).clamp_min(1e-6)
        return Encoded({"codes": (x / largest).clamp(-1, 1).mul(127).round().to(torch.int8)}, {"largest": largest})

    def decode(self, stored: Encoded, kind: Kind, out: Tensor) -> None:
        out.copy_(stored.tokens["codes"] * (stored.ranges["largest"] / 127))

    def nbytes(
        self, kind: Kind, *, rows: int, heads: int, tokens: int, maps: int, head_dim: int, dtype: torch.dtype
    ) -> int:
        return rows * heads * (tokens * head_dim + 4 * head_dim)


class _NoAllocator(BudgetAllocator):
    def allocate(self, geometry: CacheGeometry, roles: LayerRoles, slots: int) -> CachePlan:
        raise AssertionError("these tests bring their plans along")


def policy_of(selector: TokenSelector | None = None, **parts: object) -> Policy:
    """A policy for a plan that is there already."""
    return Policy(name="test", allocator=_NoAllocator(), selector=selector or HashScores(), **parts)  # type: ignore[arg-type]


# -- cases ---------------------------------------------------------------------------------------------------------


@frozen(eq=False)
class Case:
    """One image: its plan, and the queries, keys and values of every layer in full."""

    plan: CachePlan
    geometry: CacheGeometry
    seed: int = 0
    softmax_scale: float = 0.5

    @property
    def schedule(self) -> ScaleSchedule:
        return self.plan.schedule

    @cached_property
    def tensors(self) -> list[tuple[Tensor, ...]]:
        """q, k, v (B, H, total, D) of every layer; k and v as views of a larger tensor, as a model has them."""
        g = self.geometry
        generator = torch.Generator().manual_seed(self.seed)
        shape = (g.layers, g.rows, self.schedule.total, g.heads, 3, g.head_dim)
        qkv = torch.randn(shape, generator=generator).to(g.dtype)
        return [tuple(layer.permute(3, 0, 2, 1, 4)) for layer in qkv]

    def maps(self, scale: int, tensors: Sequence[tuple[Tensor, ...]] | None = None) -> list[tuple[Tensor, ...]]:
        """q, k, v of the map of this scale in every layer."""
        start, stop = self.schedule.history[scale], self.schedule.seen[scale]
        return [tuple(x[:, :, start:stop] for x in layer) for layer in tensors or self.tensors]

    def of_rows(self, rows: Sequence[int]) -> list[tuple[Tensor, ...]]:
        """The tensors of these rows only."""
        return [tuple(x[list(rows)] for x in layer) for layer in self.tensors]


def drive(
    case: Case, cache: KVCache, tensors: Sequence[tuple[Tensor, ...]] | None = None, *, scales: int | None = None
) -> list[list[Tensor]]:
    """Generates the image; returns the outputs of every scale and layer."""
    tensors = tensors or case.tensors
    return [
        [cache.attend(layer, q, k, v, softmax_scale=case.softmax_scale) for layer, (q, k, v) in enumerate(maps)]
        for maps in (case.maps(scale, tensors) for scale in range(len(case.schedule))[:scales])
    ]


sizes = st.integers(1, 3)


@st.composite
def schedules(draw: st.DrawFn, *, most: int = 6) -> ScaleSchedule:
    """1 to 6 small maps of any shape."""
    maps = st.tuples(st.integers(1, 2), sizes, st.integers(1, 4))
    return ScaleSchedule(draw(st.lists(maps, min_size=1, max_size=most)))


def _capacities(draw: st.DrawFn, schedule: ScaleSchedule, least: int) -> list[int]:
    """After every scale: nothing, something, everything or more than there is."""
    return [draw(st.integers(least, schedule.seen[k] + 2)) for k in range(len(schedule) - 1)] + [0]


def _quotas(draw: st.DrawFn, schedule: ScaleSchedule) -> list[list[int]]:
    """After every scale, what is kept of every source scale: never more than was there."""
    rows, ceiling = [], [0] * len(schedule)
    for k in range(len(schedule) - 1):
        ceiling[k] = schedule.tokens[k]
        ceiling = [draw(st.integers(0, most)) if most else 0 for most in ceiling]
        rows.append(list(ceiling))
    return [*rows, [0] * len(schedule)]


@st.composite
def cases(draw: st.DrawFn, *, quotas: bool | None = None, least: int = 0, dtype: torch.dtype = torch.float32) -> Case:
    """A schedule, a batch, and capacities per layer and head and scale; heads share one of few trajectories."""
    schedule = draw(schedules())
    layers, heads, rows = draw(sizes), draw(st.integers(1, 4)), draw(sizes)
    quotas = draw(st.booleans()) if quotas is None else quotas
    choices = draw(st.lists(st.builds(object), min_size=1, max_size=3))
    which = np.array(draw(st.lists(st.integers(0, len(choices) - 1), min_size=layers * heads, max_size=layers * heads)))
    which = which.reshape(layers, heads)
    quota = None
    if quotas:
        tracks = np.array([_quotas(draw, schedule) for _ in choices])  # [choice, K, K]
        quota = tracks[which].transpose(2, 0, 1, 3)
        capacity = quota.sum(axis=-1)
    else:
        capacity = np.array([_capacities(draw, schedule, least) for _ in choices])[which].transpose(2, 0, 1)
    geometry = CacheGeometry(
        schedule=schedule, layers=layers, heads=heads, head_dim=draw(st.sampled_from([2, 8])), rows=rows, dtype=dtype
    )
    return Case(CachePlan(schedule, capacity, quota), geometry, seed=draw(st.integers(0, 1000)))


# -- the model -----------------------------------------------------------------------------------------------------


@define(eq=False)
class Token:
    """One held token of one head: its position, what was folded into it, and a running sum."""

    position: int
    members: list[int]
    sum: float = 0.0
    age: float = 0.0


@define(eq=False)
class PlainCache:
    """What each head of each layer and row holds: a list of tokens, in order."""

    case: Case
    seed: int = 0
    folds: bool = False
    by_value: bool = True
    held: dict[tuple[int, int, int], list[Token]] = field(factory=dict)

    def append(self, scale: int) -> dict[tuple[int, int, int], list[Token]]:
        """What attention sees at this scale: {(layer, row, head): held tokens and the current map}."""
        start, stop = self.case.schedule.history[scale], self.case.schedule.seen[scale]
        g = self.case.geometry
        everywhere = [(la, r, h) for la in range(g.layers) for r in range(g.rows) for h in range(g.heads)]
        return {
            where: self.held.get(where, []) + [Token(position, [position]) for position in range(start, stop)]
            for where in everywhere
        }

    def cut(self, scale: int, seen: dict[tuple[int, int, int], list[Token]]) -> None:
        """Keeps what the plan allows, choosing by score; folds the others where asked to."""
        for (layer, row, head), tokens in seen.items():
            for token in tokens:
                token.sum += token.position + (scale + 1) * 100
                token.age += 1
            scores = self._scores(layer, row, head, tokens)
            kept = self._choose(scale, layer, head, tokens, scores)
            if self.folds and kept:
                self._fold([t for t in tokens if t not in kept], kept)
            self.held[layer, row, head] = kept

    def _scores(self, layer: int, row: int, head: int, tokens: list[Token]) -> dict[int, int]:
        positions = torch.tensor([token.position for token in tokens])
        content = self.case.tensors[layer][2][row, head, positions, 0] * self.by_value
        scores = hashed(content[None, None], positions[None, None], layer, (head,), self.seed)
        return dict(zip(positions.tolist(), scores.flatten().tolist(), strict=True))

    def _choose(self, scale: int, layer: int, head: int, tokens: list[Token], scores: dict[int, int]) -> list[Token]:
        plan, schedule = self.case.plan, self.case.schedule
        if plan.quota is None:
            best = sorted(tokens, key=lambda token: -scores[token.position])[: plan.capacity[scale, layer, head]]
        else:
            best = []
            for source, keep in enumerate(plan.quota[scale, layer, head].tolist()):
                own = [token for token in tokens if schedule.scale_of(token.position) == source]
                best += sorted(own, key=lambda token: -scores[token.position])[:keep]
        return sorted(best, key=lambda token: token.position)

    def _fold(self, others: list[Token], kept: list[Token]) -> None:
        for token in others:
            nearest = min(kept, key=lambda k: (abs(k.position - token.position), k.position))
            nearest.members += token.members


def plain_attention(q: Tensor, k: Tensor, v: Tensor, scale: float, counts: Sequence[int] | None = None) -> Tensor:
    """(n, D) softmax attention of one head in float64."""
    weights = (scale * q.double() @ k.double().T).exp()
    if counts is not None:
        weights = weights * torch.tensor(counts, dtype=torch.float64)
    return weights / weights.sum(dim=1, keepdim=True) @ v.double()


@define(eq=False)
class Seen:
    """An observer that remembers copies of all it was shown."""

    views: dict[tuple[int, int], list[tuple[CacheView, Tensor | None]]] = field(factory=dict)

    def __call__(self, view: CacheView, kept: Tensor | None) -> None:
        copy = evolve(
            view,
            q=view.q.clone(),
            k=view.k.clone(),
            v=view.v.clone(),
            positions=view.positions.clone(),
            counts=None if view.counts is None else view.counts.clone(),
            statistics={name: x.clone() for name, x in view.statistics.items()},
        )
        self.views.setdefault((view.scale, view.layer), []).append((copy, None if kept is None else kept.clone()))

    def head(self, scale: int, layer: int, head: int) -> tuple[CacheView, Tensor | None, int]:
        """The view that this head was in, what stayed of it, and the head's place in it."""
        for view, kept in self.views[scale, layer]:
            if head in view.heads:
                return view, kept, view.heads.index(head)
        raise AssertionError(f"nobody was shown head {head} of layer {layer} at scale {scale}")


@frozen
class ByProfile(LayerClassifier):
    """One role, but only for those who measured."""

    needs_profile = True

    def classify(self, profile: AttentionProfile | None, geometry: CacheGeometry) -> LayerRoles:
        assert profile is not None
        return LayerRoles.alike("any", geometry)


def profile_of(
    schedule: ScaleSchedule = toy.SCHEDULE, *, name: str = "toy", layers: int = 3, heads: int = 4
) -> AttentionProfile:
    scales = len(schedule)
    return AttentionProfile(
        model=name,
        schedule=schedule,
        mass=np.zeros((scales, layers, heads, scales), dtype=np.float32),
        fractions=(0.1,),
        top_share=np.ones((scales, layers, heads, 1), dtype=np.float32),
    )
