"""A schedule is planned once, a batch weighed once, and a given plan is not made again."""

from __future__ import annotations

import pytest
import torch
from attrs import evolve

from scalekv_core import Budget, CacheGeometry, Planned, ScaleSchedule, plan_policy
from scalekv_core.planning import plans as plans_module
from scalekv_core.planning.plans import Plans
from scalekv_core.planning.profiles import Profiles
from scalekv_core.testing import toy

WIDE = ScaleSchedule([(1, 1), (1, 3), (3, 3)])


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[CacheGeometry]:
    """Records the geometries that were planned."""
    made: list[CacheGeometry] = []

    def counting(policy: object, geometry: CacheGeometry, **how: object) -> Planned:
        made.append(geometry)
        return plan_policy(policy, geometry, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(plans_module, "plan_policy", counting)
    return made


def plans_of(budget: str) -> Plans:
    return Plans(toy.latest(), Budget.parse(budget), profiles=Profiles())


def test_a_schedule_is_planned_once(calls: list[CacheGeometry]) -> None:
    """Other rows and dtypes reuse the plan and get the bytes of planning anew."""
    plans, schedules = plans_of("50%"), (toy.SCHEDULE, WIDE)
    batches = [
        evolve(toy.GEOMETRY, schedule=schedule, rows=rows, dtype=dtype)
        for schedule in schedules
        for rows in (1, 2, 16)
        for dtype in (torch.float32, torch.bfloat16)
    ]
    made = [plans.of(geometry) for geometry in batches * 2]

    assert list(schedules) == [geometry.schedule for geometry in calls]
    for geometry, planned in zip(batches, made, strict=False):
        anew = plan_policy(toy.latest(), geometry, budget="50%")
        assert (geometry, anew.footprint, anew.slots) == (planned.geometry, planned.footprint, planned.slots)
        assert (anew.plan.capacity == planned.plan.capacity).all()


def test_bytes_are_planned_for_every_batch_and_once(calls: list[CacheGeometry]) -> None:
    """A budget in bytes is planned once per batch."""
    plans = plans_of("5KB")
    for _ in range(2):
        assert plans.of(toy.GEOMETRY).slots > plans.of(toy.GEOMETRY.for_rows(2)).slots
    assert [1, 2] == [geometry.rows for geometry in calls]


@pytest.mark.parametrize("budget", ["50%", "5KB"])
def test_a_plan_that_is_there_is_not_made_again(calls: list[CacheGeometry], budget: str) -> None:
    """A given plan is used as it is, also if the unmodified model stores another dtype."""
    planned = plan_policy(toy.latest(), toy.GEOMETRY, budget=budget)
    plans = Plans.beginning_with(planned, profiles=Profiles())

    assert planned is plans.of(toy.GEOMETRY)
    assert planned is plans.of(evolve(toy.GEOMETRY, unmodified_key_dtype=torch.float64))
    assert not calls
