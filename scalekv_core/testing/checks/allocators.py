"""What a budget allocator promises."""

from __future__ import annotations

from collections.abc import Callable

import torch
from attrs import evolve
from torch import Tensor

from scalekv_core.contracts.plan import CachePlan
from scalekv_core.contracts.strategies import BudgetAllocator
from scalekv_core.errors import BudgetError
from scalekv_core.planning.budget import Budget
from scalekv_core.testing.cases import PlanCase
from scalekv_core.testing.common import (
    NotApplicable,
    NotMade,
    all_same,
    check_randomness,
    check_value,
    only_if,
    refused,
)

Make = Callable[[], BudgetAllocator]


def slots_of(case: PlanCase) -> int:
    """Places that the budget buys."""
    return Budget.parse(case.budget).slots(case.geometry)


def plan_of(allocator: BudgetAllocator, case: PlanCase, slots: int | None = None) -> CachePlan:
    """The plan; NotApplicable where the budget is refused, or where it is no plan for this model."""
    try:
        plan = allocator.allocate(case.geometry, case.layer_roles(), slots_of(case) if slots is None else slots)
    except BudgetError as error:
        raise NotApplicable(f"it refuses this budget: {error}") from error
    if not isinstance(plan, CachePlan) or plan.schedule != case.maps or plan.capacity.shape != _shape(case):
        raise NotMade("see plan_fits_the_model")
    return plan


def held(allocator: BudgetAllocator, case: PlanCase, slots: int | None = None) -> list[Tensor]:
    """What the plan holds, as tensors to compare."""
    plan = plan_of(allocator, case, slots)
    return [torch.from_numpy(plan.held.copy()), torch.from_numpy(plan.capacity.copy())]


def _shape(case: PlanCase) -> tuple[int, int, int]:
    return len(case.maps), case.layers, case.heads


def check_is_a_value(make: Make) -> None:
    """A frozen attrs class without tensors: one allocator can serve many models at once."""
    check_value(make)


def check_plan_fits_the_model(make: Make, case: PlanCase) -> None:
    """A CachePlan [K, L, H] of the model's own schedule, for maps of any proportion and number, and for any roles.

    What it cannot do it refuses with a BudgetError; models that it is not for are named in ``only_for``.
    """
    try:
        plan = make().allocate(case.geometry, case.layer_roles(), slots_of(case))
    except BudgetError as error:
        raise NotApplicable(f"it refuses this budget: {error}") from error
    assert isinstance(plan, CachePlan), f"it returned {refused(plan)}; wanted a CachePlan"
    assert plan.schedule == case.maps, f"its plan is for maps {plan.schedule}; the model has {case.maps}"
    assert plan.capacity.shape == _shape(case), f"its capacity is {plan.capacity.shape}; [K, L, H] is {_shape(case)}"


def check_stays_within_the_budget(make: Make, case: PlanCase) -> None:
    """After no scale more tokens are held than the budget buys, summed over layers and heads."""
    plan, slots = plan_of(make(), case), slots_of(case)
    for scale, spent in enumerate(plan.slots().tolist()):
        assert spent <= slots, f"after scale {scale} it holds {spent} tokens; the budget buys {slots}"


@only_if(lambda allocator: allocator.spends_all and not allocator.only_for, "the budget is not its to choose")
def check_spends_the_budget(make: Make, case: PlanCase) -> None:
    """Wherever there is enough to hold, it holds what the budget buys, up to one token for each place and layer.

    A method that leaves memory unused would be compared with others unfairly.
    """
    plan, slots = plan_of(make(), case), slots_of(case)
    before = 0
    for scale, spent in enumerate(plan.slots().tolist()[:-1]):
        there = before + case.maps.tokens[scale] * case.geometry.slots_per_token
        spare = case.geometry.slots_per_token + case.layers
        assert spent > min(slots, there) - spare, (
            f"after scale {scale} it holds {spent} tokens; the budget buys {slots}, and there are {there}"
        )
        before = spent


@only_if(lambda allocator: not allocator.only_for, "it is for other budgets")
def check_the_whole_budget_keeps_everything(make: Make, case: PlanCase) -> None:
    """A budget of 100 % is not refused and drops nothing, so that images are bit-identical."""
    case = evolve(case, budget="100%")
    plan = make().allocate(case.geometry, case.layer_roles(), slots_of(case))
    assert isinstance(plan, CachePlan), f"it returned {refused(plan)}; wanted a CachePlan"
    assert not plan.drops, f"with room for everything it holds {plan.slots().tolist()} tokens after the scales"


def check_rows_do_not_matter(make: Make, case: PlanCase) -> None:
    """A plan is of one row: batch and dtype change its bytes and not its tokens."""
    larger = evolve(case, rows=case.rows + 1, dtype="bfloat16" if case.dtype == "float32" else "float32")
    expected = held(make(), case)
    assert all_same(expected, held(make(), larger, slots_of(case))), "the plan changes with the batch or the dtype"


def check_repeats_itself(make: Make, case: PlanCase) -> None:
    """The same question gets the same plan, from the same and from an equal allocator."""
    allocator = make()
    first = held(allocator, case)
    assert all_same(first, held(allocator, case)), "the second call gives another plan"
    assert all_same(first, held(make(), case)), "an equal allocator gives another plan"


def check_remembers_nothing(make: Make, case: PlanCase) -> None:
    """No state survives: plans for other models, schedules and budgets in between change nothing."""
    allocator = make()
    first = held(allocator, case)
    for other in (PlanCase(), evolve(case, layers=case.layers + 1, seed=case.seed + 1, budget="100%")):
        try:
            allocator.allocate(other.geometry, other.layer_roles(), slots_of(other))
        except Exception:  # what it is not for is another promise's business
            continue
    assert all_same(first, held(allocator, case)), "after a plan for another model it gives another plan"


def check_ignores_global_randomness(make: Make, case: PlanCase) -> None:
    """Global generators are neither read nor moved: seeds belong to the user's sampling."""
    check_randomness(lambda: held(make(), case))


def check_leaves_its_input_alone(make: Make, case: PlanCase) -> None:
    """The roles are not written to: they are reported and drawn beside the plan."""
    roles = case.layer_roles()
    plan_of(make(), case)
    make().allocate(case.geometry, roles, slots_of(case))
    assert (roles.labels == case.layer_roles().labels).all(), "it writes to the roles"
