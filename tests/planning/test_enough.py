"""A selector is never asked for fewer tokens than it needs, in all or of one source scale; what a refusal names works."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from attrs import field, frozen
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from scalekv_core import (
    BudgetAllocator,
    BudgetError,
    CacheGeometry,
    CachePlan,
    CacheView,
    KVCache,
    LayerRoles,
    Planned,
    Policy,
    ScaleSchedule,
    plan_policy,
)
from scalekv_core.testing.toy import Even, Latest
from tests.plain import schedules

WORKS = re.compile(r"(?:the least that works here is )?'([\d.]+ tokens?)' \([\d.]+% of history\)(?: works here)?$")


@frozen
class Shared(BudgetAllocator):
    """Shares the budget among source scales in proportion to their sizes, rounded down."""

    def allocate(self, geometry: CacheGeometry, roles: LayerRoles, slots: int) -> CachePlan:
        schedule, scales = geometry.schedule, len(geometry.schedule)
        tokens, most = np.asarray(schedule.tokens), slots // geometry.slots_per_token
        quota = np.zeros((scales, geometry.layers, geometry.heads, scales), dtype=np.int64)
        for k in range(scales - 1):
            now = tokens[: k + 1] * min(most, schedule.seen[k]) // schedule.seen[k]
            before = quota[k - 1, 0, 0, :k] if k else now[:0]
            quota[k, ..., : k + 1] = np.minimum(now, [*before, tokens[k]])
        return CachePlan(schedule, quota.sum(axis=-1), quota)


@frozen
class Needs(Latest):
    """Needs at least so many tokens, and remembers how many it was asked for."""

    tokens: int
    asked: list[int] = field(factory=list, eq=False)

    def least(self, schedule: ScaleSchedule, scale: int) -> int:
        return self.tokens

    def select(self, view: CacheView, keep: int) -> Tensor:
        self.asked.append(keep)
        return super().select(view, keep)


def generated(planned: Planned) -> list[int]:
    """What the selector was asked for during one image."""
    selector, geometry = planned.policy.selector, planned.geometry
    assert isinstance(selector, Needs)
    selector.asked.clear()
    cache = KVCache(planned.plan, planned.policy)
    for n in geometry.schedule.tokens:
        for layer in range(geometry.layers):
            cache.attend(layer, *torch.zeros(3, 1, geometry.heads, n, geometry.head_dim), softmax_scale=1.0)
    return selector.asked


def planned_or_named(policy: Policy, geometry: CacheGeometry, budget: str) -> Planned:
    """The plan under this budget, or under the one that its refusal names."""
    try:
        return plan_policy(policy, geometry, budget=budget)
    except BudgetError as error:
        named = WORKS.search(str(error))
    assert named is not None
    return plan_policy(policy, geometry, budget=named[1])


@given(schedules(), st.integers(1, 12), st.integers(1, 6), st.sampled_from([Even(), Shared()]))
def test_a_plan_asks_for_what_the_selector_needs(
    schedule: ScaleSchedule, tokens: int, needs: int, allocator: BudgetAllocator
) -> None:
    """Under every budget, and under the one that a refusal names."""
    geometry = CacheGeometry(schedule=schedule, layers=2, heads=2, head_dim=2)
    if tokens > schedule.last_history:
        return
    policy = Policy(name="mine", allocator=allocator, selector=Needs(needs))
    planned = planned_or_named(policy, geometry, f"{tokens} tokens")
    assert all(keep >= needs for keep in generated(planned))


def test_too_few_of_a_source_scale_are_refused() -> None:
    """The message names scale, head, map and selector, and promises no least: fewer of a map may be none, which works."""
    geometry = CacheGeometry(schedule=ScaleSchedule.square(1, 2, 3, 4), layers=2, heads=2, head_dim=2)
    policy = Policy(name="mine", allocator=Shared(), selector=Needs(3))
    with pytest.raises(BudgetError) as error:
        plan_policy(policy, geometry, budget="10 tokens")

    assert "after scale 2 head 0 of layer 0 would hold 2 tokens of map 1, and selector Needs needs at least 3" in str(
        error.value
    )
    assert str(error.value).endswith("works here")
    assert "the least" not in str(error.value).split(";")[1]
    assert "'11 tokens'" in str(error.value)
