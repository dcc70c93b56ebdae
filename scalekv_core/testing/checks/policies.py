"""What a whole policy is checked for, with images through the real cache."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
from attrs import evolve
from numpy.typing import NDArray

from scalekv_core.cache.concat_cache import ConcatCache
from scalekv_core.contracts.policy import Policy
from scalekv_core.contracts.roles import LayerRoles
from scalekv_core.errors import BudgetError, InputError
from scalekv_core.testing import real_sizes
from scalekv_core.testing.cases import ImageCase
from scalekv_core.testing.checks import whole
from scalekv_core.testing.common import (
    Blocked,
    NeverApplies,
    NotApplicable,
    Refused,
    all_same,
    check_value,
    made_on_few,
    only_if,
)
from scalekv_core.testing.images import Image, plan_for, profile_of

Make = Callable[[], Policy]


def check_is_a_value(make: Make) -> None:
    """A frozen value of frozen parts: one policy can serve many models at once."""
    check_value(make)
    for part in make().parts:
        check_value(lambda part=part: getattr(make(), part))  # type: ignore[misc]


def check_plans_within_its_budget(make: Make, case: ImageCase) -> None:
    """The plan holds no more tokens than the budget buys and, where the budget is bytes, no more bytes."""
    try:
        planned = plan_for(make(), case)
    except Blocked as blocked:
        raise AssertionError(blocked.reason) from None
    budget = planned.budget
    if budget.unit == "bytes":
        most = planned.footprint.most_planned
        assert most <= budget.amount, f"budget {budget} and {most} bytes planned"


@only_if(lambda policy: not whole.is_for_some(policy), "it is for other models")
def check_usual_budgets_are_accepted(make: Make) -> None:
    """For the published models its own default budget and 10 % can be planned: what users get who say nothing."""
    for case in real_sizes.plans():
        shape = {name: getattr(case, name) for name in ("maps", "layers", "heads", "width", "dtype")}
        policy = make()
        for budget in ("", "10%", "50%") if policy.allocator.spends_all else ("",):
            try:
                plan_for(policy, ImageCase(**shape, budget=budget))
            except (InputError, Refused, Blocked) as error:
                which = f"budget {budget}" if budget else f"its own budget, {policy.budget!r},"
                raise AssertionError(
                    f"{which} fails for {case.layers} layers x {case.heads} heads and maps {case.maps}: {error}"
                ) from error


def _noting(roles: LayerRoles, asked: set[str]) -> LayerRoles:
    """The same roles, which note the names that they are asked for, and "" where labels are read without a name."""

    class Noting(LayerRoles):
        def is_role(self, name: str) -> NDArray[np.bool_]:
            asked.add(name)
            return roles.is_role(name)

        def __getattribute__(self, name: str) -> Any:
            if name in ("names", "labels", "scores"):
                asked.add("")
            return super().__getattribute__(name)

    noting = Noting(roles.names, roles.labels, roles.scores)
    asked.clear()  # of what the class itself has read
    return noting


@only_if(lambda policy: not whole.is_for_some(policy), "it is for other models")
def check_roles_are_read(make: Make) -> None:
    """The allocator asks for roles that the classifier gives: a name that is spelt otherwise belongs to no layer."""
    for case in real_sizes.plans()[:2]:
        policy, asked = make(), set[str]()
        roles = policy.classifier.classify(profile_of(case) if policy.needs_profile else None, case.geometry)
        if len(np.unique(roles.labels)) == 1:
            continue
        slots = case.maps.last_history * case.geometry.slots_per_token // 4
        with contextlib.suppress(BudgetError):
            policy.allocator.allocate(case.geometry, _noting(roles, asked), slots)
        known = ", ".join(roles.names)
        assert asked, f"the classifier gives the roles {known}, and the allocator asks for none of them"
        assert asked & {"", *roles.names}, (
            f"the allocator asks for the role {', '.join(sorted(asked))}; the classifier gives {known}"
        )


def check_answers_are_accepted(make: Make, case: ImageCase) -> None:
    """The cache, which checks every answer of selector, merger and codec, finds nothing wrong with any of them."""
    image = Image.of(make(), case)
    try:
        image.generate(image.cache())
    except Blocked as blocked:
        raise AssertionError(blocked.reason) from None


@only_if(lambda policy: not whole.is_for_some(policy), "it is for other budgets")
def check_the_whole_budget_is_lossless(make: Make, case: ImageCase) -> None:
    """With a budget of 100 % the outputs are those of the unmodified model, bit by bit."""
    image = Image.of(make(), evolve(case, budget="100%"))
    if not image.is_exact:
        raise NeverApplies("its codec is lossy, and says so")
    assert all_same(image.generate(ConcatCache()), image.generate(image.cache())), "the outputs are not bit-identical"


@only_if(lambda policy: policy.allocator.spends_all, "the budget is not its to choose")
@made_on_few(1, real_sizes=1)
def check_a_small_budget_drops(make: Make, case: ImageCase) -> None:
    """A budget below the whole history drops tokens: a policy that does nothing is an error, not silence."""
    policy = make()
    planned, image = plan_for(policy, case), Image.of(policy, case)
    per_token = case.geometry.slots_per_token
    if planned.slots > case.maps.last_history * per_token - per_token:
        raise NotApplicable("it buys the whole history, or nearly")
    assert planned.plan.drops, f"under {planned.budget} its plan drops nothing"
    cache = image.cache()
    image.generate(cache)
    assert image.planned.plan.drops == cache.dropped, "its plan says that tokens are dropped, and none was"
