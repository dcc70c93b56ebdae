"""From policy, budget and model to a plan that is known to work: what can be refused is refused before generation."""

from __future__ import annotations

import torch
from attrs import evolve, frozen

from scalekv_core.contracts.plan import CachePlan
from scalekv_core.contracts.policy import Policy
from scalekv_core.contracts.profile import AttentionProfile
from scalekv_core.contracts.roles import LayerRoles
from scalekv_core.errors import BudgetError, ContractError
from scalekv_core.planning.budget import Budget
from scalekv_core.planning.enough import asks_for_parts
from scalekv_core.planning.footprint import Footprint, footprint, scratch_bytes
from scalekv_core.planning.least import least_budget, quoted
from scalekv_core.planning.profiles import GivenProfiles, Profiles
from scalekv_core.planning.spending import Spending
from scalekv_core.shapes.geometry import CacheGeometry


@frozen(eq=False, kw_only=True)
class Planned:
    """A policy under a budget, planned for one model, schedule and batch.

    Attributes:
        policy, budget, geometry: what was asked.
        profile: the attention profile that the classifier was given; None if the policy needs none.
        slots: what the budget allows: tokens x layers x heads of one row.
        roles: what the classifier answered.
        plan: what the allocator answered.
        footprint: the bytes of the plan.
    """

    policy: Policy
    budget: Budget
    geometry: CacheGeometry
    profile: AttentionProfile | None = None
    slots: int
    roles: LayerRoles
    plan: CachePlan
    footprint: Footprint

    def for_batch(self, rows: int, dtype: torch.dtype) -> Planned:
        """The same plan for another batch: as many tokens per row, other bytes. Not for budgets in bytes."""
        geometry = evolve(self.geometry, rows=rows, dtype=dtype)
        if geometry == self.geometry:
            return self
        return evolve(self, geometry=geometry, footprint=footprint(self.plan, self.policy, geometry))

    def read_ahead(self, ahead: bool) -> Planned:
        """The same plan with or without the buffers for histories that are copied ahead of attention."""
        scratch = scratch_bytes(self.plan, self.geometry, ahead=ahead)
        return evolve(self, footprint=evolve(self.footprint, scratch=scratch))


def plan_policy(
    policy: Policy,
    geometry: CacheGeometry,
    *,
    budget: str | Budget | None = None,
    profile: GivenProfiles = None,
    model: str | None = None,
    ahead: bool = False,
) -> Planned:
    """The plan of a policy for a model. Whatever can be checked before generation is checked here.

    Args:
        policy: what to plan.
        geometry: the model's shape with schedule, rows and dtype.
        budget: how much may be held; None takes the policy's own.
        profile: what calibration measured, for one schedule or for several; only if the policy needs it.
        model: the model's name, to refuse a profile of another one.
        ahead: whether histories are copied ahead of attention, see :func:`scalekv_core.planning.footprint.footprint`.

    Raises:
        BudgetError: the budget is zero, too large, or below what the policy needs (the least possible is named).
        ProfileError: the policy needs a profile and has none, or has that of another model or schedule.
        ContractError: the allocator broke its contract.
    """
    wanted = Budget.parse(policy.budget if budget is None else budget)
    chosen = Profiles.of(profile).for_image(policy, geometry, model) if policy.needs_profile else None
    roles = classify(policy, geometry, chosen)
    spending = Spending(policy, geometry, roles)
    spending.slots_bought(wanted)  # more than the whole history is refused in other words than too little
    try:
        slots, plan, weighs = spending.spend(wanted)
    except BudgetError as error:
        least = least_budget(spending, wanted)
        if least is None:
            raise
        works = f"the least that works here is {quoted(least, spending)}"
        if asks_for_parts(policy, spending.spend(least)[1]):
            works = f"{quoted(least, spending)} works here"
        raise BudgetError(f"budget {wanted} is too small for policy {policy.name!r}: {error}; {works}") from error
    planned = Planned(
        policy=policy,
        budget=wanted,
        geometry=geometry,
        profile=chosen,
        slots=slots,
        roles=roles,
        plan=plan,
        footprint=weighs,
    )
    return planned.read_ahead(ahead) if ahead else planned


def classify(policy: Policy, geometry: CacheGeometry, profile: AttentionProfile | None) -> LayerRoles:
    """The roles that a policy's classifier gives to the layers and heads of this geometry."""
    maps = geometry.of_maps
    roles = policy.classifier.classify(profile and profile.without_prefix(), maps)
    shape = (len(maps.schedule), geometry.layers, geometry.heads)
    if roles.labels.shape != shape:
        raise ContractError(
            f"classifier {type(policy.classifier).__name__} labelled {roles.labels.shape}; [K, L, H] is {shape}"
        )
    return roles.with_prefix() if geometry.schedule.prefix else roles
