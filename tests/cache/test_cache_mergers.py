"""Folding: counts and means are conserved, attention weighs a token by its count, and its bytes are planned."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from attrs import frozen
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from scalekv_core import CacheGeometry, CachePlan, CacheView, KVCache, ScaleSchedule, footprint
from scalekv_core.contracts.defaults import Drop
from tests.plain import (
    Case,
    FoldIntoNearest,
    HashScores,
    PlainCache,
    Seen,
    Sums,
    cases,
    drive,
    plain_attention,
    policy_of,
)

CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@given(cases(), st.integers(0, 5))
def test_folding_is_what_anybody_would_write(case: Case, seed: int) -> None:
    """In every layer, row and head, after every scale: kept tokens equal the plain model's, each is the mean of its

    members and counts them, no token seen is lost, attention weighs each by its count, and the bytes are planned.
    """
    policy = policy_of(HashScores(seed=seed, by_value=False), merger=FoldIntoNearest())
    seen, plain = Seen(), PlainCache(case, seed=seed, folds=True, by_value=False)
    cache = KVCache(case.plan, policy, check=True, observer=seen)
    for scale in range(len(case.schedule)):
        tokens = plain.append(scale)
        for layer, (q, k, v) in enumerate(case.maps(scale)):
            out = cache.attend(layer, q, k, v, softmax_scale=case.softmax_scale)
            check_scale(case, seen, scale, layer, out, tokens)
        plain.cut(scale, tokens)
    assert footprint(case.plan, policy, case.geometry).planned == tuple(cache.resident)


def check_scale(case: Case, seen: Seen, scale: int, layer: int, out: Tensor, tokens: dict) -> None:
    """Compares what attention read and returned in one layer."""
    q, k, v = case.tensors[layer]
    start, stop = case.schedule.history[scale], case.schedule.seen[scale]
    for row in range(out.shape[0]):
        for head in range(out.shape[1]):
            view, _, place = seen.head(scale, layer, head)
            held = tokens[layer, row, head]
            counts = [len(token.members) for token in held]
            assert [token.position for token in held] == view.positions[row, place].tolist()
            assert counts == ([1] * len(held) if view.counts is None else view.counts[row, place].tolist())
            means = [torch.stack([x[row, head, token.members].mean(dim=0) for token in held]) for x in (k, v)]
            torch.testing.assert_close(view.k[row, place], means[0], **CLOSE)
            torch.testing.assert_close(view.v[row, place], means[1], **CLOSE)
            expected = plain_attention(q[row, head, start:stop], *means, case.softmax_scale, counts)
            torch.testing.assert_close(out[row, head].double(), expected, **CLOSE)


@frozen
class Weighing(FoldIntoNearest):
    """Gives later tokens more weight."""

    def weights(self, view: CacheView) -> Tensor:
        return 1.0 + view.positions


@given(cases(quotas=False, least=1), st.integers(0, 5))
def test_a_merger_may_weigh_tokens_its_own_way(case: Case, seed: int) -> None:
    """After the first eviction kept tokens are weighted means; counts do not depend on the weights."""
    weighed, counted = Seen(), Seen()
    for seen, merger in ((weighed, Weighing()), (counted, FoldIntoNearest())):
        policy = policy_of(HashScores(seed=seed, by_value=False), merger=merger)
        drive(case, KVCache(case.plan, policy, check=True, observer=seen))

    for (scale, layer), views in weighed.views.items():
        for (view, _), (other, _) in zip(views, counted.views[scale, layer], strict=True):
            assert torch.equal(view.positions, other.positions)
            assert (view.counts is None) == (other.counts is None)
            if view.counts is not None:
                assert torch.equal(view.counts, other.counts)
        for view, kept in views:
            if view.counts is None and kept is not None and scale + 2 < len(case.schedule):
                check_means(view, kept, next(v for v, _ in weighed.views[scale + 1, layer] if v.heads == view.heads))


def check_means(view: CacheView, kept: Tensor, later: CacheView) -> None:
    """Compares keys and values of kept tokens with means computed by hand."""
    target, weights = FoldIntoNearest().assign(view, kept), 1.0 + view.positions
    for row, head, place in np.ndindex(*kept.shape):
        members = target[row, head] == place
        share = weights[row, head][members] / weights[row, head][members].sum()
        for name in "kv":
            mean = (getattr(view, name)[row, head][members] * share[:, None]).sum(dim=0)
            torch.testing.assert_close(getattr(later, name)[row, head, place], mean, **CLOSE)


@given(cases(quotas=False, least=1), st.integers(0, 5))
def test_nothing_is_lost(case: Case, seed: int) -> None:
    """Counts add up to the tokens seen, and count-weighted sums of keys and values are conserved."""
    seen = Seen()
    policy = policy_of(HashScores(seed=seed), merger=FoldIntoNearest())
    drive(case, KVCache(case.plan, policy, check=True, observer=seen))

    for (scale, layer), views in seen.views.items():
        for view, _ in views:
            total = case.schedule.seen[scale]
            counts = torch.ones(view.positions.shape) if view.counts is None else view.counts
            assert (counts.sum(dim=2) == total).all()
            for name, original in zip("kv", case.tensors[layer][1:], strict=True):
                sums = (getattr(view, name).double() * counts.double().unsqueeze(3)).sum(dim=2)
                expected = original[:, list(view.heads), :total].double().sum(dim=2)
                torch.testing.assert_close(sums, expected, rtol=1e-4, atol=1e-4)


def repeated(times: int) -> Case:
    """Every map repeats one token, so folding changes no key or value."""
    schedule = ScaleSchedule([(1, 1), (times, 2), (times, 3)])
    geometry = CacheGeometry(schedule=schedule, layers=1, heads=2, head_dim=8, rows=2)
    capacity = np.array([1, 1, 0])[:, None, None].repeat(2, axis=2)
    return Case(CachePlan(schedule, capacity), geometry)


@pytest.mark.parametrize("times", [1, 3, 10])
def test_identical_tokens_fold_without_loss(times: int) -> None:
    """Attention over folded tokens with the logarithm of their counts equals attention over the tokens themselves."""
    case = repeated(times)
    tensors = [(q, k[:, :, :1].expand_as(k), v[:, :, :1].expand_as(v)) for q, k, v in case.tensors]
    folded = drive(case, KVCache(case.plan, policy_of(merger=FoldIntoNearest()), check=True), tensors)
    whole = [
        plain_attention(q[row, head, start:stop], k[row, head, :stop], v[row, head, :stop], case.softmax_scale)
        for q, k, v in tensors
        for start, stop in zip(case.schedule.history, case.schedule.seen, strict=True)
        for row in range(2)
        for head in range(2)
    ]
    flat = [out[row, head].double() for (out,) in folded for row in range(2) for head in range(2)]
    for expected, actual in zip(whole, flat, strict=True):
        torch.testing.assert_close(actual, expected, **CLOSE)


def test_a_count_is_a_weight() -> None:
    """Folding two kinds of tokens by kind gives the mixture of the repeated tokens, not one half each."""
    schedule = ScaleSchedule([(1, 1), (1, 8), (1, 1)])
    geometry = CacheGeometry(schedule=schedule, layers=1, heads=1, head_dim=4)
    case = Case(CachePlan(schedule, np.array([1, 2, 0])[:, None, None]), geometry)
    q, k, v = (torch.zeros(1, 1, schedule.total, 4) for _ in range(3))
    v[:, :, :3] = 1.0  # positions 0, 1, 2 of one kind, 3 to 8 of another

    class Ends(HashScores):
        def score(self, view: CacheView, keep: int) -> Tensor:
            return ((view.positions == 0) | (view.positions == 7)).long()

    out = drive(case, KVCache(case.plan, policy_of(Ends(), merger=FoldIntoNearest())), [(q, k, v)])[2][0]
    kinds = [4, 6]  # 0 to 3 go to 0; 4 to 8 to 7, and the current map's one token is of value 0 too
    mean = 3 / 4 * kinds[0] / sum(kinds)

    torch.testing.assert_close(out, torch.full((1, 1, 1, 4), mean))


@given(cases(least=1))
def test_the_neutral_merger_is_the_same_written_out(case: Case) -> None:
    """A merger that assigns -1 to every other token equals `drop`, up to the rounding of a count of 1."""

    class DropByHand(Drop):
        drops = False

    short = drive(case, KVCache(case.plan, policy_of(), check=True))
    long = drive(case, KVCache(case.plan, policy_of(merger=DropByHand()), check=True))
    for a, b in zip(short, long, strict=True):
        for x, y in zip(a, b, strict=True):
            torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-6)


@given(cases(quotas=False))
def test_no_count_where_nothing_is_folded(case: Case) -> None:
    """Where nothing is evicted, a merger adds no counts, no bias and no bytes."""
    capacity = np.broadcast_to(np.array(case.schedule.keepable())[:, None, None], case.plan.capacity.shape)
    case = Case(CachePlan(case.schedule, capacity), case.geometry)
    seen = Seen()
    policy = policy_of(merger=FoldIntoNearest())
    folded = drive(case, KVCache(case.plan, policy, observer=seen))
    dropped = drive(case, KVCache(case.plan, policy_of()))

    assert all(view.counts is None for views in seen.views.values() for view, _ in views)
    assert all(torch.equal(x, y) for a, b in zip(folded, dropped, strict=True) for x, y in zip(a, b, strict=True))
    assert footprint(case.plan, policy, case.geometry) == footprint(case.plan, policy_of(), case.geometry)


@given(cases())
def test_statistics_are_carried_through_folds(case: Case) -> None:
    """A kept token keeps its own statistics; those of folded tokens are dropped."""
    seen = Seen()
    policy = policy_of(Sums(by_value=False), merger=FoldIntoNearest())
    plain = PlainCache(case, folds=True, by_value=False)
    cache = KVCache(case.plan, policy, check=True, observer=seen)
    for scale in range(len(case.schedule) - 1):
        tokens = plain.append(scale)
        for layer, (q, k, v) in enumerate(case.maps(scale)):
            cache.attend(layer, q, k, v, softmax_scale=1.0)
        plain.cut(scale, tokens)
        for (layer, row, head), held in tokens.items():
            view, _, place = seen.head(scale, layer, head)
            if case.plan.held[scale, layer, head]:
                assert [token.sum for token in held] == view.statistics["sum"][row, place].tolist()
    before_last = len(case.schedule) - 1
    assert footprint(case.plan, policy, case.geometry).planned[:before_last] == tuple(cache.resident[:before_last])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_folding_works_in_half_precision(dtype: torch.dtype) -> None:
    """The bias has the dtype of the queries, as SDPA requires, and means are stored in it."""
    schedule = ScaleSchedule([(1, 1), (2, 3), (3, 4), (4, 4)])
    geometry = CacheGeometry(schedule=schedule, layers=2, heads=2, head_dim=8, rows=2, dtype=dtype)
    capacity = np.broadcast_to(np.array([1, 3, 5, 0])[:, None, None], (4, 2, 2))
    case = Case(CachePlan(schedule, capacity), geometry)
    policy = policy_of(HashScores(by_value=False), merger=FoldIntoNearest())
    half = drive(case, KVCache(case.plan, policy, check=True))
    full = drive(case, KVCache(case.plan, policy, check=True), [tuple(x.float() for x in la) for la in case.tensors])

    for a, b in zip(half, full, strict=True):
        for x, y in zip(a, b, strict=True):
            assert dtype == x.dtype
            torch.testing.assert_close(x.float(), y, rtol=0.05, atol=0.05)
