"""Statistics of a selector: carried with their tokens, zero for a new map, exact after any eviction."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from scalekv_core import CacheGeometry, CachePlan, CacheView, KVCache, ScaleSchedule, footprint
from tests.plain import Case, Half, PlainCache, Seen, Sums, cases, drive, policy_of


@given(cases(), st.integers(0, 3))
def test_running_sums_are_the_plain_models(case: Case, seed: int) -> None:
    """Under any plan, after every scale, the sums equal the plain model's for every token."""
    seen, plain = Seen(), PlainCache(case, seed=seed)
    policy = policy_of(Sums(seed=seed))
    cache = KVCache(case.plan, policy, check=True, observer=seen)
    for scale in range(len(case.schedule)):
        tokens = plain.append(scale)
        for layer, (q, k, v) in enumerate(case.maps(scale)):
            cache.attend(layer, q, k, v, softmax_scale=case.softmax_scale)
        plain.cut(scale, tokens)
        for (layer, row, head), held in tokens.items():
            view, _, place = seen.head(scale, layer, head)
            assert {"sum", "age"} == set(view.statistics)
            if case.plan.held[scale, layer, head]:  # observe is not called where nothing is held
                assert [token.sum for token in held] == view.statistics["sum"][row, place].tolist()
                assert [token.age for token in held] == view.statistics["age"][row, place].tolist()
        assert {torch.float32} >= {
            x.dtype for views in seen.views.values() for v, _ in views for x in v.statistics.values()
        }
    assert footprint(case.plan, policy, case.geometry).planned == tuple(cache.resident)


@given(cases())
def test_statistics_do_not_touch_attention(case: Case) -> None:
    """Statistics change no output under any codec, and take two float32 per held token."""
    with_sums, without = policy_of(Sums()), policy_of()
    mine, theirs = drive(case, KVCache(case.plan, with_sums)), drive(case, KVCache(case.plan, without))
    assert all(torch.equal(x, y) for a, b in zip(mine, theirs, strict=True) for x, y in zip(a, b, strict=True))

    planned, bare = (footprint(case.plan, p, case.geometry).planned for p in (with_sums, without))
    held = case.plan.slots() * case.geometry.rows
    assert [8 * n for n in held] == [a - b for a, b in zip(planned, bare, strict=True)]
    half = KVCache(case.plan, policy_of(Sums(by_value=False), codec=Half()), check=True)
    drive(case, half)
    assert footprint(case.plan, half.policy, case.geometry).planned == tuple(half.resident)


def test_statistics_are_float32_whatever_the_keys_are() -> None:
    """Statistics are float32, since running sums in half precision stop growing."""
    schedule = ScaleSchedule.square(1, 2, 3)
    plan = CachePlan(schedule, np.broadcast_to(np.array([1, 3, 0])[:, None, None], (3, 1, 2)))
    geometry = CacheGeometry(schedule=schedule, layers=1, heads=2, head_dim=4, dtype=torch.bfloat16)
    seen: list[CacheView] = []
    cache = KVCache(plan, policy_of(Sums()), observer=lambda view, kept: seen.append(view))
    case = Case(plan, geometry)
    drive(case, cache, [tuple(x.bfloat16() for x in layer) for layer in case.tensors])
    assert {torch.float32} == {x.dtype for view in seen for x in view.statistics.values()}
