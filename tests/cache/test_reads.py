"""Schedules that say which maps are read, text prefixes, grouped heads and repeated passes, against lists of positions."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest
import torch
from attrs import define, evolve, field, frozen
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from scalekv_core import CacheGeometry, CacheView, InputError, KVCache, Policy, ScaleSchedule, plan_policy
from scalekv_core.cache.concat_cache import ConcatCache
from scalekv_core.contracts.plan import everything
from scalekv_core.errors import BudgetError
from tests.plain import HashPicks, HashScores, Sums, plain_attention

CODECS = ("dense", "int8", "host")
WIDTH, ROWS = 8, 2


@frozen
class Case:
    """A schedule, the shape of a cache, a policy and its budget."""

    schedule: ScaleSchedule
    layers: int
    heads: int
    group: int
    policy: Policy
    seed: int

    @property
    def geometry(self) -> CacheGeometry:
        return CacheGeometry(
            schedule=self.schedule,
            layers=self.layers,
            heads=self.heads,
            group=self.group,
            head_dim=WIDTH,
            rows=ROWS,
        )

    def tensors(self, layer: int) -> tuple[Tensor, Tensor, Tensor]:
        """q (B, g H, total, D), k and v (B, H, total, D)."""
        generator = torch.Generator().manual_seed(self.seed * 10 + layer)
        numbers = (self.heads * self.group, self.heads, self.heads)
        q, k, v = (torch.randn(ROWS, n, self.schedule.total, WIDTH, generator=generator) for n in numbers)
        return q, k, v


@st.composite
def schedules(draw: st.DrawFn) -> ScaleSchedule:
    """Up to six maps, each of which reads any of the earlier ones."""
    maps = draw(st.lists(st.tuples(*[st.integers(1, 3)] * 3), min_size=2, max_size=6))
    reads = [sorted(draw(st.sets(st.integers(0, k - 1)))) if k else [] for k in range(len(maps))]
    prefix = draw(st.booleans())
    if prefix and draw(st.booleans()):
        reads = [reads[0], *(sorted({0, *earlier}) for earlier in reads[1:])]
    return ScaleSchedule(maps, reads=draw(st.sampled_from([reads, None])), prefix=prefix)


@st.composite
def cases(draw: st.DrawFn, codecs: tuple[str, ...] = ("dense",)) -> Case:
    selector = draw(st.sampled_from([HashScores(seed=3), HashPicks(seed=5), Sums(seed=7)]))
    allocator = draw(st.sampled_from(["uniform", "pyramidkv", "scalekv"]))
    policy = Policy.named(allocator, codec=draw(st.sampled_from(codecs)))
    if draw(st.booleans()):
        policy = evolve(policy, selector=selector)
    return Case(
        draw(schedules()), draw(st.integers(1, 2)), draw(st.integers(1, 2)), draw(st.integers(1, 3)), policy,
        draw(st.integers(0, 99)),
    )  # fmt: skip


def profile(geometry: CacheGeometry) -> Any:
    from scalekv_core.planning.assumed import assumed_profile

    return assumed_profile(geometry, [0])


def planned(case: Case, share: int) -> Any:
    return plan_policy(case.policy, case.geometry, budget=f"{share}%", profile=profile(case.geometry))


@define
class Seen:
    """Every view that the cache has shown its observer, and the positions that were kept."""

    views: list[CacheView] = field(factory=list)
    kept: list[list[list[list[int]]]] = field(factory=list)

    def __call__(self, view: CacheView, kept: Tensor | None) -> None:
        positions = view.positions.long()
        self.kept.append((positions if kept is None else positions.gather(2, kept)).tolist())
        self.views.append(view)


def drive(case: Case, cache: KVCache | ConcatCache, *, passes: int = 1) -> list[list[Tensor]]:
    """What attention gives at every scale in every layer; each map is passed so often, and stored the last time."""
    layers = [case.tensors(layer) for layer in range(case.layers)]
    outputs = []
    for start, stop in zip(case.schedule.history, case.schedule.seen, strict=True):
        maps = [[x[:, :, start:stop] for x in tensors] for tensors in layers]
        for _ in range(passes - 1):
            for layer, (q, k, v) in enumerate(maps):
                cache.attend(layer, q + 1, k * 2, v - 1, softmax_scale=0.5, store=False)
        outputs.append([cache.attend(layer, *parts, softmax_scale=0.5) for layer, parts in enumerate(maps)])
    return outputs


def expected_attention(case: Case, layer: int, head: int, row: int, scale: int, held: list[int]) -> Tensor:
    """(n, D) of one query head over the held tokens of the maps that this one reads, and its own."""
    q, k, v = case.tensors(layer)
    start, stop = case.schedule.history[scale], case.schedule.seen[scale]
    read = set(case.schedule.read_by(scale))
    tokens = [p for p in held if case.schedule.scale_of(p) in read] + list(range(start, stop))
    key = head // case.group
    return plain_attention(q[row, head, start:stop], k[row, key, tokens], v[row, key, tokens], 0.5)


@given(cases(), st.integers(20, 100), st.integers(1, 2))
def test_attention_sees_what_is_read_and_held(case: Case, share: int, passes: int) -> None:
    """At every scale: the held tokens of the maps that are read and the map itself, and nothing else."""
    try:
        plan = planned(case, share)
    except BudgetError:
        return
    seen = Seen()
    cache = KVCache(plan.plan, case.policy, observer=seen, check=True)
    outputs = drive(case, cache, passes=passes)
    held: dict[tuple[int, int, int], list[int]] = defaultdict(list)
    shown = iter(zip(seen.views, seen.kept, strict=True))
    for scale, layers in enumerate(outputs):
        for layer, out in enumerate(layers):
            for row in range(ROWS):
                for head in range(case.heads * case.group):
                    expected = expected_attention(case, layer, head, row, scale, held[layer, row, head // case.group])
                    torch.testing.assert_close(out[row, head].double(), expected, rtol=2e-5, atol=2e-6)
            for _ in plan.plan.groups[layer]:
                view, kept = next(shown)
                for row in range(ROWS):
                    for place, head in enumerate(view.heads):
                        held[layer, row, head] = kept[row][place]
            alive = set(case.schedule.alive[scale])
            for (at, _, head), tokens in held.items():
                if at == layer:
                    assert all(case.schedule.scale_of(p) in alive for p in tokens)
                    assert len(tokens) == plan.plan.held[scale, layer, head]
                    if case.schedule.prefix and 0 in alive:
                        assert tokens[: case.schedule.tokens[0]] == list(range(case.schedule.tokens[0]))


# Its second map is cut and folded; its third no longer reads that map, so that the counts go with it.
FOLDED_AND_FORGOTTEN = ScaleSchedule(
    [(1, 1, 1), (1, 3, 3), (1, 1, 1), (1, 1, 1)], reads=[[], [0], [0, 1], [0]], prefix=True
)


@given(cases(CODECS), st.integers(20, 100), st.sampled_from(["drop", "fold"]), st.booleans())
@example(Case(FOLDED_AND_FORGOTTEN, 1, 1, 1, Policy.named("uniform"), 0), 20, "fold", False)
def test_planned_bytes_are_resident(case: Case, share: int, merger: str, observed: bool) -> None:
    """After every scale, under every codec, folding or not."""
    case = evolve(
        case, policy=Policy.named("uniform", codec=case.policy.codec, merger=merger, selector=case.policy.selector)
    )
    try:
        plan = planned(case, share)
    except BudgetError:
        return
    cache = KVCache(plan.plan, case.policy, check=True, observer=Seen() if observed else None)
    drive(case, cache)
    assert tuple(cache.resident) == plan.footprint.planned
    assert not list(cache.tensors())
    assert cache.dropped == plan.plan.drops


@given(cases(), st.integers(1, 2))
def test_keeping_everything_is_lossless(case: Case, passes: int) -> None:
    """The outputs of the unmodified cache, bit by bit; and the least bytes."""
    plan, unmodified = everything(case.geometry), ConcatCache(case.schedule)
    mine = drive(case, cache := KVCache(plan, Policy.named("full"), check=True), passes=passes)
    theirs = drive(case, unmodified, passes=passes)
    assert all(torch.equal(x, y) for a, b in zip(mine, theirs, strict=True) for x, y in zip(a, b, strict=True))
    assert max(cache.resident) == case.geometry.history_bytes
    assert not cache.dropped


@given(cases(), st.integers(20, 90))
def test_a_policy_sees_only_what_is_read_later(case: Case, share: int) -> None:
    """Views have neither a text prefix nor a map without a reader, and count scales and positions without the prefix."""
    views: list[CacheView] = []

    @frozen
    class Watching(HashScores):
        def score(self, view: CacheView, keep: int) -> Tensor:
            views.append(view)
            return super().score(view, keep)

    case = evolve(case, policy=evolve(case.policy, selector=Watching()))
    try:
        plan = planned(case, share)
    except BudgetError:
        return
    drive(case, KVCache(plan.plan, case.policy, check=True))
    maps = case.schedule.without_prefix
    for view in views:
        assert view.schedule == maps
        alive = set(maps.alive[view.scale])
        assert view.scale in alive
        assert {maps.scale_of(p) for p in view.positions.flatten().tolist()} <= alive
        own = torch.arange(maps.history[view.scale], maps.seen[view.scale])
        assert (view.positions[:, :, view.history :] == own).all()


def test_the_mass_counts_the_text_and_the_heads_of_a_group() -> None:
    """What a view's tokens get of the attention to everything, summed over the query heads of a key head."""
    schedule = ScaleSchedule([(1, 4), (2, 2), (2, 3)], prefix=True)
    case = Case(schedule, 1, 2, 2, Policy.named("uniform"), 0)
    found: list[Tensor] = []

    @frozen
    class Mass(HashScores):
        def score(self, view: CacheView, keep: int) -> Tensor:
            some = torch.tensor([1, 3])
            found.extend([view.attention_mass(), view.attention_mass(some), view.queries(some)])
            return super().score(view, keep)

    policy = evolve(case.policy, selector=Mass())
    plan = plan_policy(policy, case.geometry, budget="6 tokens")
    drive(case, KVCache(plan.plan, policy))
    q, k, _ = (x[:, :, :8] for x in case.tensors(0))
    chances = (q[:, :, 4:] @ k.repeat_interleave(2, dim=1).transpose(2, 3) * 0.5).softmax(-1)
    whole, some = (x.sum(2).unflatten(1, (2, 2)).sum(2)[..., 4:] for x in (chances, chances[:, :, [1, 3]]))

    torch.testing.assert_close(found[0], whole)
    torch.testing.assert_close(found[1], some)
    assert torch.equal(found[2], q[:, :, [5, 7]].unflatten(1, (2, 2)).flatten(2, 3))


def test_groups_cost_what_their_keys_cost() -> None:
    """Eight query heads on two key/value heads: the bytes of two."""
    one = CacheGeometry(schedule=ScaleSchedule.square(1, 2, 3), layers=2, heads=2, head_dim=8)

    assert one.unmodified_bytes == evolve(one, group=4).unmodified_bytes
    assert (2, 8) == (one.query_heads, evolve(one, group=4).query_heads)


def test_the_published_videos_cost_what_is_read() -> None:
    """InfinityStar, 5 s at 720p, two rows: 20.8 GiB as published, of which 1.0 GiB is ever read."""
    sides = [(1, 1)] * 14 + [(45, 80)]
    maps = [(t, h, w) for t in (1, 20) for h, w in sides]
    reads = [[14] if k >= 15 else [] for k in range(30)]
    schedule = ScaleSchedule(maps, reads=reads)
    geometry = CacheGeometry(schedule=schedule, layers=36, heads=8, group=4, head_dim=128, rows=2, dtype=torch.bfloat16)

    assert (75_600, 3_600) == (max(schedule.unmodified_held), schedule.last_history)
    assert (20.76, 0.99) == tuple(round(x / 2**30, 2) for x in (geometry.unmodified_bytes, geometry.history_bytes))


def test_wrong_readers_are_refused() -> None:
    """A map that reads itself or a later one, and too few lists."""
    with pytest.raises(InputError, match=r"map 1 reads earlier maps, 0 to 0; got \[1\]"):
        ScaleSchedule([(1, 1), (2, 2)], reads=[[], [1]])
    with pytest.raises(InputError, match="one list for each of the 2 maps; got 1"):
        ScaleSchedule([(1, 1), (2, 2)], reads=[[]])
    with pytest.raises(InputError, match="needs a map after it"):
        ScaleSchedule([(1, 5)], prefix=True)


def test_a_budget_below_the_text_is_refused() -> None:
    """And the least that works is named."""
    geometry = CacheGeometry(
        schedule=ScaleSchedule([(1, 30), (2, 2), (4, 4), (6, 6)], prefix=True), layers=1, heads=1, head_dim=8
    )
    with pytest.raises(BudgetError, match=r"buys 5\.0 tokens per head, and the 30 tokens of the text are always kept"):
        plan_policy(Policy.named("uniform"), geometry, budget="10%")
