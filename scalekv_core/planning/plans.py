"""The plans of a policy for every schedule and batch that a model generates, each made once."""

from __future__ import annotations

import torch

from scalekv_core.contracts.policy import Policy
from scalekv_core.planning.budget import Budget
from scalekv_core.planning.planner import Planned, plan_policy
from scalekv_core.planning.profiles import Profiles
from scalekv_core.shapes.geometry import CacheGeometry
from scalekv_core.shapes.schedule import ScaleSchedule


class Plans:
    """Plans of one policy under one budget for one model, made when they are first needed.

    Args:
        policy: what to plan.
        budget: how much may be held.
        profiles: the model's attention profiles.
        model: its name, to refuse a profile of another one.
    """

    def __init__(self, policy: Policy, budget: Budget, *, profiles: Profiles, model: str | None = None) -> None:
        self.policy, self.budget, self.profiles, self.model = policy, budget, profiles, model
        self._made: dict[tuple[ScaleSchedule, int, torch.dtype], Planned] = {}

    @classmethod
    def beginning_with(cls, planned: Planned, *, profiles: Profiles, model: str | None = None) -> Plans:
        """Plans that start with one that is already made."""
        plans = cls(planned.policy, planned.budget, profiles=profiles, model=model)
        plans._made[_key(planned.geometry)] = planned
        return plans

    def of(self, geometry: CacheGeometry) -> Planned:
        """The plan for this schedule and batch.

        Raises:
            BudgetError, ProfileError, ContractError: as :func:`~scalekv_core.planning.planner.plan_policy`.
        """
        key = _key(geometry)
        if key not in self._made:
            self._made[key] = self._weighed_anew(geometry) or plan_policy(
                self.policy, geometry, budget=self.budget, profile=self.profiles.by_schedule.values(), model=self.model
            )
        return self._made[key]

    def _weighed_anew(self, geometry: CacheGeometry) -> Planned | None:
        """A plan of the same schedule, for this batch; None where the batch decides what the budget buys."""
        if self.budget.unit == "bytes":
            return None
        alike = (planned for planned in self._made.values() if planned.geometry.schedule == geometry.schedule)
        planned = next(alike, None)
        return planned and planned.for_batch(geometry.rows, geometry.dtype)


def _key(geometry: CacheGeometry) -> tuple[ScaleSchedule, int, torch.dtype]:
    return geometry.schedule, geometry.rows, geometry.dtype
