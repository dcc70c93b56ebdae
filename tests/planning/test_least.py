"""The smallest budget that an error names works, and a step less does not, for every policy, codec and unit."""

from __future__ import annotations

import re
from functools import cache

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from scalekv_core import Budget, BudgetError, CacheGeometry, Policy, Registry, ScaleKVError, ScaleSchedule, plan_policy
from scalekv_core.planning.assumed import assumed_profile
from scalekv_core.planning.least import step_of
from scalekv_core.planning.planner import classify
from scalekv_core.planning.spending import Spending
from tests.plain import schedules

NAMED = re.compile(r"the least that works here is '(.+?)'")


@cache
def shipped() -> Registry:
    return Registry.installed()


@cache
def var_tiny() -> CacheGeometry:
    geometry: CacheGeometry = shipped().make("model", "var-tiny").geometry.for_rows(2)
    return geometry


def policies() -> st.SearchStrategy[Policy]:
    """Every policy that ships with every codec and merger."""
    names = [shipped().names(kind) for kind in ("policy", "codec", "merger")]
    made = st.builds(
        lambda policy, codec, merger: shipped().policy(policy, codec=codec, merger=merger), *map(st.sampled_from, names)
    )
    return made.filter(lambda policy: policy.allocator.spends_all)


def check_least(policy: Policy, geometry: CacheGeometry, budget: Budget) -> None:
    """Asserts that the named budget works as written and a step less is too small."""
    profile = assumed_profile(geometry, [0])
    try:
        plan_policy(policy, geometry, budget=budget, profile=profile)
        return
    except BudgetError as error:
        named = NAMED.search(str(error))
    if named is None:
        return
    least = Budget.parse(named[1])
    plan_policy(policy, geometry, budget=named[1], profile=profile)
    assert least.unit in (budget.unit, "tokens")
    spending = Spending(policy, geometry, classify(policy, geometry, profile if policy.needs_profile else None))
    step = step_of(least.unit, spending.whole(least.unit))
    if least.amount > step:
        with pytest.raises(BudgetError, match="too small"):
            plan_policy(policy, geometry, budget=Budget(least.amount - step, least.unit), profile=profile)


@st.composite
def budgets(draw: st.DrawFn, geometry: CacheGeometry) -> Budget:
    """Small budgets in every unit."""
    share = draw(st.fractions(min_value="1/100000", max_value="1/3"))
    whole = {"history": 1, "all": 1, "tokens": geometry.schedule.last_history, "bytes": geometry.history_bytes}
    unit = draw(st.sampled_from(sorted(whole)))
    assume(whole[unit])
    return Budget(share * whole[unit], unit)  # type: ignore[arg-type]


@given(st.data(), policies(), schedules(), st.integers(1, 3))
@settings(suppress_health_check=[HealthCheck.filter_too_much])
def test_the_least_that_is_named_is_the_least(
    data: st.DataObject, policy: Policy, schedule: ScaleSchedule, rows: int
) -> None:
    """For models of any schedule."""
    geometry = CacheGeometry(schedule=schedule, layers=3, heads=2, head_dim=64, rows=rows)
    try:
        check_least(policy, geometry, data.draw(budgets(geometry)))
    except BudgetError:
        raise
    except ScaleKVError:  # not for this model, or not with these parts
        assume(False)


@pytest.mark.parametrize("codec", ["dense", "int8", "int4", "fp8", "host"])
@pytest.mark.parametrize("budget", ["1KiB", "200KiB", "0.01%", "0.01% of all", "0.1 tokens"])
def test_the_least_is_in_the_unit_that_was_asked(codec: str, budget: str) -> None:
    """For a model that ships, with guidance."""
    check_least(shipped().policy("uniform", codec=codec), var_tiny(), Budget.parse(budget))


def test_bytes_are_answered_in_bytes() -> None:
    """With ranges of codecs few tokens are expensive: '1 token' is 217.8 KiB."""
    policy = shipped().policy("uniform", codec="int4")
    with pytest.raises(BudgetError, match=r"budget 200 KiB is too small .* the least that works here is '217\.8 KiB'$"):
        plan_policy(policy, var_tiny(), budget="200KiB")

    assert 223_008 == plan_policy(policy, var_tiny(), budget="1 token").footprint.most_planned
    assert 1 == plan_policy(policy, var_tiny(), budget="217.8KiB").plan.held[0].min()


@pytest.mark.parametrize("codec", ["dense", "int4"])
def test_the_whole_history_is_named_in_the_bytes_that_hold_it(codec: str) -> None:
    """The named bytes buy everything, and a byte more is refused."""
    policy = shipped().policy("uniform", codec=codec)
    with pytest.raises(BudgetError, match="is more than the whole history") as refusal:
        plan_policy(policy, var_tiny(), budget="10GiB")
    (whole,) = re.findall(r"'100%' = '424 tokens' = '(.+?)' here", str(refusal.value))
    planned = plan_policy(policy, var_tiny(), budget=whole)

    assert not planned.plan.drops
    assert planned.footprint.most_planned == planned.budget.amount
    with pytest.raises(BudgetError, match="is more than the whole history"):
        plan_policy(policy, var_tiny(), budget=Budget(planned.budget.amount + 1, "bytes"))
