"""What a budget allocator is checked for."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from attrs import evolve
from torch import Tensor

from scalekv_core.contracts.plan import CachePlan
from scalekv_core.contracts.roles import LayerRoles
from scalekv_core.contracts.strategies import BudgetAllocator
from scalekv_core.errors import BudgetError
from scalekv_core.planning.budget import Budget
from scalekv_core.shapes.geometry import CacheGeometry
from scalekv_core.testing import real_sizes
from scalekv_core.testing.cases import PlanCase
from scalekv_core.testing.checks import options
from scalekv_core.testing.checks.remembering import forgotten, keeps_nothing, remembers_nothing, repeats
from scalekv_core.testing.common import (
    Blocked,
    NeverApplies,
    Refused,
    all_same,
    check_randomness,
    check_value,
    made_on_few,
    only_if,
    refused,
)
from scalekv_core.testing.elsewhere import agrees_elsewhere
from scalekv_core.testing.manners import quietly

Make = Callable[[], BudgetAllocator]
SECONDS = 1.0
"""Processor time within which a plan for the largest published model is made."""


def slots_of(case: PlanCase) -> int:
    """Slots that the budget buys."""
    return Budget.parse(case.budget).slots(case.geometry)


def plan_of(
    allocator: BudgetAllocator, case: PlanCase, *, slots: int | None = None, roles: LayerRoles | None = None
) -> CachePlan:
    """The plan; Refused where it refuses the budget, Blocked where it is no plan for this model."""
    roles = case.layer_roles() if roles is None else roles
    try:
        plan = allocator.allocate(case.geometry, roles, slots_of(case) if slots is None else slots)
    except BudgetError as error:
        raise Refused(f"it refuses this budget: {error}") from error
    if not isinstance(plan, CachePlan) or plan.schedule != case.maps or plan.capacity.shape != case.shape:
        raise Blocked("plan_fits_the_model", f"it returned {refused(plan)}")
    return plan


def held(
    allocator: BudgetAllocator, case: PlanCase, *, slots: int | None = None, roles: LayerRoles | None = None
) -> list[Tensor]:
    """What the plan holds, as tensors to compare."""
    plan = plan_of(allocator, case, slots=slots, roles=roles)
    return [torch.from_numpy(plan.held.copy()), torch.from_numpy(plan.capacity.copy())]


def check_is_a_value(make: Make) -> None:
    """A frozen attrs class without tensors: one allocator can serve many models at once."""
    check_value(make)


@made_on_few(1, real_sizes=5)
def check_plan_fits_the_model(make: Make, case: PlanCase) -> None:
    """A CachePlan [K, L, H] of the model's own schedule, for maps of any proportion and number, and for any roles.

    What it cannot do it refuses with a BudgetError; models that it is not for are named in ``only_for``.
    """
    try:
        plan = make().allocate(case.geometry, case.layer_roles(), slots_of(case))
    except BudgetError as error:
        raise Refused(f"it refuses this budget: {error}") from error
    assert isinstance(plan, CachePlan), f"it returned {refused(plan)}; wanted a CachePlan"
    assert plan.schedule == case.maps, f"its plan is for maps {plan.schedule}; the model has {case.maps}"
    assert plan.capacity.shape == case.shape, f"its capacity is {plan.capacity.shape}; [K, L, H] is {case.shape}"


def check_stays_within_the_budget(make: Make, case: PlanCase) -> None:
    """After no scale more tokens are held than the budget buys, summed over layers and heads."""
    plan, slots = plan_of(make(), case), slots_of(case)
    for scale, spent in enumerate(plan.slots().tolist()):
        assert spent <= slots, f"after scale {scale} it holds {spent} tokens; the budget buys {slots}"


@only_if(lambda allocator: allocator.spends_all and not allocator.only_for, "the budget is not its to choose")
def check_usual_budgets_are_accepted(make: Make) -> None:
    """For the published models it accepts 10 %, the default, and other budgets that people give."""
    for case in real_sizes.plans():
        for budget in ("10%", "25%", "50%", "1000 tokens" if case.maps.last_history > 1000 else "100 tokens"):
            asked = evolve(case, budget=budget)
            try:
                plan_of(make(), asked)
            except Refused as reason:
                raise AssertionError(
                    f"for {case.layers} layers x {case.heads} heads and maps {case.maps} at {budget} {reason}"
                ) from reason


@only_if(lambda allocator: allocator.spends_all and not allocator.only_for, "the budget is not its to choose")
@made_on_few(1, real_sizes=5)
def check_spends_the_budget(make: Make, case: PlanCase) -> None:
    """Wherever there is enough to hold, it holds what the budget buys, up to one token for each head and layer.

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
    assert not plan.drops, f"under a budget of 100% it holds {plan.slots().tolist()} tokens after the scales"


@only_if(lambda allocator: not allocator.only_for, "it is for the roles of one classifier")
def check_roles_go_by_name(make: Make, case: PlanCase) -> None:
    """Roles go by name: another order of the names, or a role that no layer has, changes nothing."""
    case = evolve(case, roles="drafter,refiner" if case.roles == "any" else case.roles)
    roles, last = case.layer_roles(), len(case.roles.split(",")) - 1
    expected = held(make(), case, roles=roles)
    backwards = LayerRoles(roles.names[::-1], (last - roles.labels).astype(np.int8))
    assert all_same(expected, held(make(), case, roles=backwards)), (
        f"the plan changes when the roles {', '.join(roles.names)} are listed in another order; ask roles.is_role(name)"
    )
    for more in (
        LayerRoles((*roles.names, "absent"), roles.labels),
        LayerRoles(("zero", *roles.names), (roles.labels + 1).astype(np.int8)),
    ):
        assert all_same(expected, held(make(), case, roles=more)), "the plan changes with a role that no layer has"


def check_rows_do_not_matter(make: Make, case: PlanCase) -> None:
    """A plan is for one row: batch and dtype change its bytes and not its tokens."""
    larger = evolve(case, rows=case.rows + 1, dtype="bfloat16" if case.dtype == "float32" else "float32")
    expected = held(make(), case)
    assert all_same(expected, held(make(), larger, slots=slots_of(case))), (
        "the plan changes with the batch or the dtype"
    )


def check_repeats_itself(make: Make, case: PlanCase) -> None:
    """The same question gets the same plan, from the same and from an equal allocator."""
    repeats(make, lambda allocator: held(allocator, case), "another plan")


def check_remembers_nothing(make: Make, case: PlanCase) -> None:
    """The plan does not depend on what was asked before: other models, roles, schedules and budgets change nothing."""
    allocator = make()
    others = (
        evolve(case, seed=case.seed + 1),
        evolve(case, seed=case.seed + 1, spread="one", roles="drafter,refiner"),
        evolve(case, budget="100%"),
        evolve(case, layers=case.layers + 1, heads=case.heads + 1, budget="100%"),
        PlanCase(),
    )

    def ask(other: PlanCase) -> None:
        with contextlib.suppress(Exception):  # what it is not for is another check's business
            allocator.allocate(other.geometry, other.layer_roles(), slots_of(other))

    remembers_nothing(allocator, lambda: held(allocator, case), [partial(ask, one) for one in others], "another plan")


@made_on_few(5, real_sizes=1)
def check_keeps_nothing(make: Make, case: PlanCase) -> None:
    """Nothing of a plan stays in the allocator, its class or its module; only what the model's shape decides may."""
    allocator = make()
    with forgotten(allocator):
        keeps_nothing(allocator, lambda seed: held(allocator, evolve(case, seed=case.seed + seed)), "plan")


def check_ignores_global_randomness(make: Make, case: PlanCase) -> None:
    """Global generators are neither read nor moved: seeds belong to the user's sampling."""
    check_randomness(lambda: held(make(), case))


def check_leaves_its_input_alone(make: Make, case: PlanCase) -> None:
    """The roles are not written to: they are reported and plotted beside the plan."""
    roles, untouched = case.layer_roles(), case.layer_roles()
    scores = np.random.default_rng(case.seed).random(case.shape)
    roles = evolve(roles, scores=scores.copy())
    plan_of(make(), case, roles=roles)
    assert np.array_equal(roles.labels, untouched.labels), "it writes to the roles"
    assert roles.scores is not None
    assert np.array_equal(roles.scores, scores), "it writes to the scores of the roles"


@made_on_few(10, real_sizes=1)
def check_is_quiet(make: Make, case: PlanCase) -> None:
    """It prints nothing, warns of nothing, and leaves the settings of torch, numpy and the process alone."""
    quietly(lambda: held(make(), case))


def check_is_quick(make: Make) -> None:
    """A plan for a published model takes less than a second."""
    only_for = make().only_for
    case = _for(*only_for[0]) if only_for else evolve(real_sizes.plans()[0], budget="100%")
    held(make(), case)
    start = time.thread_time()
    held(make(), case)
    taken = time.thread_time() - start
    assert taken <= SECONDS, f"a plan for {case.layers} layers x {case.heads} heads takes {taken:.1f} s"


def check_another_process_agrees(make: Make) -> None:
    """The same question gets the same plan tomorrow: hashes of texts, ids and the clock are others in every process."""
    if make().only_for:
        raise NeverApplies("it is for the roles of one classifier")
    cases = [evolve(case, budget=budget) for case in real_sizes.plans()[:2] for budget in ("10%", "100%")]
    agrees_elsewhere(held, make, cases, "gives another plan")


def _for(geometry: CacheGeometry, budget: str) -> PlanCase:
    """The case of a model that it is only for."""
    return PlanCase(
        maps=geometry.schedule,
        layers=geometry.layers,
        heads=geometry.heads,
        width=geometry.head_dim,
        budget=budget,
    )


@made_on_few(3)
def check_options_work(make: Make, case: PlanCase) -> None:
    """With every option set to other values that it accepts, the plan fits the model and the budget."""

    def both(other: Make) -> None:
        check_plan_fits_the_model(other, case)
        check_stays_within_the_budget(other, case)

    options.each_option(make, both)
