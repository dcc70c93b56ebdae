"""Planning: from a budget to a plan, and every refusal before generation."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from attrs import evolve, frozen
from hypothesis import given
from hypothesis import strategies as st

from scalekv_core import (
    Budget,
    BudgetAllocator,
    BudgetError,
    CacheCodec,
    CacheGeometry,
    CachePlan,
    CacheView,
    ContractError,
    LayerClassifier,
    LayerRoles,
    Planned,
    Policy,
    ScaleSchedule,
    TokenSelector,
    plan_policy,
)
from scalekv_core.contracts.defaults import Dense
from scalekv_core.contracts.plan import everything
from scalekv_core.planning.spending import stored_slot_bytes
from scalekv_core.testing.toy import Even, Latest, latest
from tests.plain import FoldIntoNearest, Half, Int8, Int8PerChannel, Sums, schedules

INFINITY_8B = CacheGeometry(
    schedule=ScaleSchedule.square(1, 2, 4, 6, 8, 12, 16, 20, 24, 32, 40, 48, 64),
    layers=40,
    heads=28,
    head_dim=128,
    rows=16,
    dtype=torch.bfloat16,
    unmodified_key_dtype=torch.float32,
)
SMALL = CacheGeometry(schedule=ScaleSchedule([(1, 1), (2, 1), (2, 3), (4, 5)]), layers=3, heads=4, head_dim=8, rows=2)


def policy(**parts: Any) -> Policy:
    return evolve(latest(), **parts)


def attempt(policy: Policy, geometry: CacheGeometry, budget: str | Budget) -> tuple[Planned | None, str]:
    """The plan, or the error."""
    try:
        return plan_policy(policy, geometry, budget=budget), ""
    except BudgetError as refusal:
        return None, str(refusal)


def mib(count: int) -> int:
    return round(count / 2**20)


def test_infinity_8b_at_the_papers_ten_percent() -> None:
    """650 tokens everywhere: 5,688 MiB of keys and values, 44 MiB of positions, against 138,088 unmodified."""
    planned = plan_policy(latest(), INFINITY_8B, budget="650 tokens")
    slots = 650 * 40 * 28 * 16

    assert 650 * 40 * 28 == planned.slots
    assert 5_688 == mib(slots * 512)
    assert slots * (512 + 4) == planned.footprint.most_planned
    assert 138_088 == mib(planned.footprint.unmodified)


def test_infinity_8b_with_everything_is_the_lossless_floor() -> None:
    """Without eviction no positions are stored: exactly the 56,219 MiB of the history in bfloat16."""
    planned = plan_policy(latest(), INFINITY_8B, budget="100%")

    assert INFINITY_8B.history_bytes == planned.footprint.most_planned
    assert 56_219 == mib(planned.footprint.most_planned)
    assert 0 == planned.footprint.planned[-1]
    assert not planned.plan.drops


def test_the_policys_own_budget_is_the_default() -> None:
    """Without a budget the policy's own is used and reported."""
    planned = plan_policy(latest(), SMALL)

    assert Budget(Fraction(1, 2)) == planned.budget
    assert 54 == planned.slots
    assert (latest(), SMALL) == (planned.policy, planned.geometry)
    assert planned.budget == plan_policy(latest(), SMALL, budget=Budget.parse("50%")).budget


@given(
    schedules(),
    st.sampled_from([Dense(), Half(), Int8(), Int8PerChannel()]),
    st.booleans(),
    st.booleans(),
    st.integers(1, 3),
    st.integers(1, 20_000),
)
def test_bytes_are_never_exceeded(
    schedule: ScaleSchedule, codec: CacheCodec, folds: bool, sums: bool, rows: int, budget: int
) -> None:
    """A budget in bytes covers codes, ranges, positions, counts and statistics."""
    geometry = evolve(SMALL, schedule=schedule, rows=rows)
    merger = {"merger": FoldIntoNearest()} if folds else {}
    chosen = policy(codec=codec, selector=Sums() if sums else Latest(), **merger)
    planned, refusal = attempt(chosen, geometry, f"{budget} B")

    assert "too small" in refusal or "more than the whole history" in refusal or not refusal
    assert planned is None or planned.footprint.most_planned <= budget


@given(schedules(), st.fractions(min_value=Fraction(1, 100), max_value=1))
def test_a_share_is_never_exceeded(schedule: ScaleSchedule, share: Fraction) -> None:
    """The average of held tokens over layers and heads never exceeds the share."""
    geometry = evolve(SMALL, schedule=schedule)
    planned, refusal = attempt(latest(), geometry, Budget(share))

    assert "the least that works here is " in refusal or not refusal
    assert planned is None or (planned.plan.slots() <= share * schedule.last_history * 12).all()


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({}, 64 + 4),
        ({"codec": Half()}, 32 + 4),
        ({"codec": Int8()}, 2 * (8 + 4) + 4),
        ({"selector": Sums()}, 64 + 4 + 8),
        ({"merger": FoldIntoNearest()}, 64 + 4 + 4),
        ({"codec": Int8PerChannel()}, Fraction(2 * (9 * 8 + 32), 9) + 4),
    ],
)
def test_what_one_slot_takes(parts: dict[str, Any], expected: Fraction | int) -> None:
    """A slot has key, value, position, count and statistics as this policy stores them."""
    assert expected == stored_slot_bytes(policy(**parts), SMALL)


# -- the least budget ---------------------------------------------------------------------------------------------


@frozen
class Needs(Latest):
    """Needs at least so many tokens."""

    tokens: int = 3

    def least(self, schedule: ScaleSchedule, scale: int) -> int:
        return self.tokens


@frozen
class FirstLayerGetsMost(BudgetAllocator):
    """Gives half of the budget to layer 0, and refuses a budget that leaves a layer without tokens."""

    def allocate(self, geometry: CacheGeometry, roles: LayerRoles, slots: int) -> CachePlan:
        rest = slots // 2 // (geometry.slots_per_token - geometry.heads)
        if rest < 1:
            raise BudgetError("the later layers would hold nothing")
        capacity = np.full((len(geometry.schedule), geometry.layers, geometry.heads), rest)
        capacity[:, 0] = slots // 2 // geometry.heads
        return CachePlan(geometry.schedule, np.minimum(capacity, np.array(geometry.schedule.keepable())[:, None, None]))


@pytest.mark.parametrize(
    ("parts", "least", "share"),
    [
        ({"selector": Needs(3)}, 3, "33.34"),
        ({"selector": Needs(7)}, 7, "77.78"),
        ({"selector": Needs(9)}, 9, "100"),
        ({"allocator": FirstLayerGetsMost()}, 2, "22.23"),
        ({"allocator": FirstLayerGetsMost(), "selector": Needs(3)}, 4, "44.45"),
    ],
)
def test_the_least_is_named_and_is_the_least(parts: dict[str, Any], least: int, share: str) -> None:
    """Whether selector or allocator refuses, the named tokens work and one less does not."""
    with pytest.raises(BudgetError, match=rf"the least that works here is '{least} tokens' \({share}% of history\)"):
        plan_policy(policy(**parts), SMALL, budget="1 token")
    plan_policy(policy(**parts), SMALL, budget=f"{least} tokens")
    with pytest.raises(BudgetError, match="too small for policy 'toy-latest': "):
        plan_policy(policy(**parts), SMALL, budget=f"{least - 1} tokens")


def test_a_selector_that_needs_more_than_there_is_gets_everything() -> None:
    """A selector's minimum applies to evictions only."""
    planned = plan_policy(policy(selector=Needs(1000)), SMALL, budget="100%")

    assert not planned.plan.drops
    with pytest.raises(BudgetError, match="needs at least 1000; the least that works here is '100% of history'"):
        plan_policy(policy(selector=Needs(1000)), SMALL, budget="99%")


def test_where_no_budget_is_enough_the_reason_stands_alone() -> None:
    """A refusal that no budget changes is not called too small."""

    class Never(BudgetAllocator):
        def allocate(self, geometry: CacheGeometry, roles: LayerRoles, slots: int) -> CachePlan:
            raise BudgetError("released for another budget")

    with pytest.raises(BudgetError, match=r"^released for another budget$"):
        plan_policy(policy(allocator=Never()), SMALL)


def test_one_map_and_two_maps_can_be_planned() -> None:
    """An image of one map has no history; of two, the history is the first."""
    one = evolve(SMALL, schedule=ScaleSchedule([(4, 4)]))
    two = evolve(SMALL, schedule=ScaleSchedule([(1, 1), (4, 4)]))

    assert (0,) == plan_policy(latest(), one).footprint.planned
    assert (2 * 12 * 64, 0) == plan_policy(latest(), two, budget="100%").footprint.planned
    with pytest.raises(BudgetError, match="the least that works here is '100% of history'"):
        plan_policy(latest(), two, budget="50%")


# -- contracts ----------------------------------------------------------------------------------------------------


def test_an_allocator_that_overspends_is_refused() -> None:
    """The error gives what it spent and the budget."""

    class Spendthrift(BudgetAllocator):
        def allocate(self, geometry: CacheGeometry, roles: LayerRoles, slots: int) -> CachePlan:
            return everything(geometry)

    with pytest.raises(
        ContractError,
        match=r"allocator Spendthrift of policy 'toy-latest' gave out 108 slots after scale 2; "
        r"the budget is 54 \(4\.5 tokens per head\)",
    ):
        plan_policy(policy(allocator=Spendthrift()), SMALL, budget="50%")


def test_an_allocator_that_plans_for_another_model_is_refused() -> None:
    """The error gives both shapes."""

    class Elsewhere(BudgetAllocator):
        def allocate(self, geometry: CacheGeometry, roles: LayerRoles, slots: int) -> CachePlan:
            return Even().allocate(evolve(geometry, layers=2), roles, slots)

    with pytest.raises(ContractError, match=r"the plan is for \[K, L, H\] = \(4, 2, 4\)"):
        plan_policy(policy(allocator=Elsewhere()), SMALL)


def test_a_classifier_that_labels_another_model_is_refused() -> None:
    """The error gives both shapes."""

    class Elsewhere(LayerClassifier):
        def classify(self, profile: object, geometry: CacheGeometry) -> LayerRoles:
            return LayerRoles.alike("any", evolve(geometry, heads=1))

    with pytest.raises(ContractError, match=r"classifier Elsewhere labelled \(4, 3, 1\); \[K, L, H\] is \(4, 3, 4\)"):
        plan_policy(policy(classifier=Elsewhere()), SMALL)


def test_a_policy_that_needs_no_profile_is_given_none() -> None:
    """A classifier that does not ask for a profile never receives one."""

    class Curious(LayerClassifier):
        def classify(self, profile: object, geometry: CacheGeometry) -> LayerRoles:
            assert profile is None
            return LayerRoles.alike("any", geometry)

    plan_policy(policy(classifier=Curious()), SMALL, profile=object())  # type: ignore[arg-type]


def test_planning_is_repeatable() -> None:
    """Planning twice gives the same plan."""
    one, two = (plan_policy(latest(), SMALL, budget="3 tokens") for _ in range(2))

    assert np.array_equal(one.plan.capacity, two.plan.capacity)
    assert one.footprint == two.footprint


@pytest.mark.parametrize("name", ["labels of floats", "labels past the names", "two axes"])
def test_roles_are_checked(name: str) -> None:
    """Labels must be integers [K, L, H] within the names."""
    labels = {
        "labels of floats": np.zeros((4, 3, 4)),
        "labels past the names": np.full((4, 3, 4), 2),
        "two axes": np.zeros((4, 3), dtype=int),
    }[name]
    with pytest.raises(ContractError, match="layer roles"):
        LayerRoles(("a", "b"), labels)


def test_a_role_that_nobody_plays_is_nowhere() -> None:
    """A role unknown to the classifier covers no layer."""
    roles = LayerRoles(("a", "b"), np.array([[[0, 1]]]))

    assert [[[False, True]]] == roles.is_role("b").tolist()
    assert [[[False, False]]] == roles.is_role("drafter").tolist()


def test_a_selector_is_asked_only_where_it_cuts() -> None:
    """`least` is never called for the last scale, after which nothing is kept."""
    asked = []

    class Asked(TokenSelector):
        def least(self, schedule: ScaleSchedule, scale: int) -> int:
            asked.append(scale)
            return 1

        def select(self, view: CacheView, keep: int) -> torch.Tensor:
            raise AssertionError

    plan_policy(policy(selector=Asked()), SMALL)
    assert [0, 1, 2] == asked
