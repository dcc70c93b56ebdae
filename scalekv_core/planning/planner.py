"""From policy, budget and model to a plan that is known to be possible: every refusal happens here, before drawing."""

from __future__ import annotations

from fractions import Fraction

from attrs import frozen

from scalekv_core.contracts.encoded import KINDS
from scalekv_core.contracts.plan import CachePlan
from scalekv_core.contracts.policy import Policy
from scalekv_core.contracts.profile import AttentionProfile
from scalekv_core.contracts.roles import LayerRoles
from scalekv_core.errors import BudgetError, ContractError, ProfileError
from scalekv_core.planning.budget import Budget
from scalekv_core.planning.footprint import Footprint, footprint
from scalekv_core.shapes.geometry import CacheGeometry


@frozen(eq=False, kw_only=True)
class Planned:
    """A policy under a budget, worked out for one model, schedule and batch.

    Attributes:
        policy, budget, geometry: what was asked.
        slots: tokens that the budget allows, over all layers and heads of one row.
        roles: what the classifier said.
        plan: what the allocator made of it.
        footprint: what that weighs.
    """

    policy: Policy
    budget: Budget
    geometry: CacheGeometry
    slots: int
    roles: LayerRoles
    plan: CachePlan
    footprint: Footprint


def plan_policy(
    policy: Policy,
    geometry: CacheGeometry,
    *,
    budget: str | Budget | None = None,
    profile: AttentionProfile | None = None,
    model: str | None = None,
    ahead: bool = False,
) -> Planned:
    """The plan of a policy for a model, checked against every promise that can be checked before drawing.

    Args:
        policy: what to plan.
        geometry: the model's shape with schedule, rows and dtype.
        budget: how much may be held; None takes the policy's own.
        profile: what calibration measured; only if the policy needs it.
        model: the model's name, to refuse a profile of another one.
        ahead: whether histories come ahead of attention, see :func:`scalekv_core.planning.footprint.footprint`.

    Raises:
        BudgetError: the budget is zero, too large, or below what the policy needs (the least possible is named).
        ProfileError: the policy needs a profile and has none, or has that of another model.
        ContractError: the allocator broke its contract.
    """
    wanted = Budget.parse(policy.budget if budget is None else budget)
    roles = classify(policy, geometry, profile, model)
    slots = wanted.slots(geometry, slot_bytes=stored_slot_bytes(policy, geometry))
    try:
        slots, plan, weighs = _spend(policy, geometry, roles, wanted, slots, ahead)
    except BudgetError as error:
        least = _least(policy, geometry, roles, slots)
        if least is None:
            raise
        raise BudgetError(f"budget {wanted} is too small for policy {policy.name!r}: {error}; {least}") from error
    return Planned(
        policy=policy,
        budget=wanted,
        geometry=geometry,
        slots=slots,
        roles=roles,
        plan=plan,
        footprint=weighs,
    )


def classify(
    policy: Policy, geometry: CacheGeometry, profile: AttentionProfile | None, model: str | None
) -> LayerRoles:
    """The roles that a policy's classifier gives; refuses a missing or foreign profile."""
    if policy.needs_profile:
        if profile is None:
            raise ProfileError(
                f"policy {policy.name!r} needs an attention profile of the model; make one with: "
                f"scalekv calibrate --model {model or 'NAME'}, and give it as profile= (on the command line --profile)"
            )
        profile.check_fits(geometry, model)
    roles = policy.classifier.classify(profile if policy.needs_profile else None, geometry)
    shape = (len(geometry.schedule), geometry.layers, geometry.heads)
    if roles.labels.shape != shape:
        raise ContractError(
            f"classifier {type(policy.classifier).__name__} labelled {roles.labels.shape}; [K, L, H] is {shape}"
        )
    return roles


def stored_slot_bytes(policy: Policy, geometry: CacheGeometry) -> Fraction:
    """Bytes of one cached token in one head: key, value, position, count and statistics, as this policy stores them."""
    tokens = max(1, geometry.schedule.last_history)
    codes = sum(
        policy.codec.nbytes(
            kind, rows=1, heads=1, tokens=tokens, maps=1, head_dim=geometry.head_dim, dtype=geometry.dtype
        )
        for kind in KINDS
    )
    words = 1 + len(policy.selector.statistics) + (not policy.merger.drops)
    return Fraction(codes, tokens) + 4 * words


def _spend(
    policy: Policy, geometry: CacheGeometry, roles: LayerRoles, budget: Budget, slots: int, ahead: bool
) -> tuple[int, CachePlan, Footprint]:
    """Places, plan and bytes. Where a codec stores ranges beside its codes, fewer tokens cost more each, and bytes buy
    fewer places than the division said."""
    while True:
        plan = _allocate(policy, geometry, roles, slots)
        weighs = footprint(plan, policy, geometry, ahead=ahead)
        if budget.unit != "bytes" or weighs.most_planned <= budget.amount:
            return slots, plan, weighs
        slots = min(slots - 1, int(slots * budget.amount / weighs.most_planned))


def _allocate(policy: Policy, geometry: CacheGeometry, roles: LayerRoles, slots: int) -> CachePlan:
    """The allocator's plan; refused where it spends too much, or leaves the selector too little."""
    plan = policy.allocator.allocate(geometry, roles, slots)
    plan.check_fits(geometry)
    for scale, held in enumerate(plan.slots().tolist()):
        if held > slots:
            raise ContractError(
                f"allocator {type(policy.allocator).__name__} of policy {policy.name!r} gave out {held} places after "
                f"scale {scale}; the budget is {slots} ({slots / geometry.slots_per_token:.1f} tokens per layer and head)"
            )
    _refuse_too_little(policy, plan)
    return plan


def _refuse_too_little(policy: Policy, plan: CachePlan) -> None:
    """Raises BudgetError where the plan asks the selector for fewer tokens than it can work with."""
    for scale in range(len(plan.schedule) - 1):
        least = policy.selector.least(plan.schedule, scale)
        held, keepable = plan.held[scale], plan.schedule.seen[scale]
        short = (held < least) & (held < keepable)
        if short.any():
            layer = int(short.any(axis=1).argmax())
            raise BudgetError(
                f"after scale {scale} layer {layer} would hold {int(held[layer].min())} "
                f"where selector {type(policy.selector).__name__} needs {least}, in tokens"
            )


def _least(policy: Policy, geometry: CacheGeometry, roles: LayerRoles, slots: int) -> str | None:
    """The least budget that works, found by bisection, in words; None if the whole history is not enough either."""
    low, high = slots, geometry.schedule.last_history * geometry.slots_per_token
    if not _possible(policy, geometry, roles, high):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _possible(policy, geometry, roles, middle) else (middle, high)
    least = Budget(-(-high // geometry.slots_per_token), "tokens")
    share = float(least.amount / geometry.schedule.last_history)
    return f"the least that works here is '{least}' ({share:.2%} of the history)"


def _possible(policy: Policy, geometry: CacheGeometry, roles: LayerRoles, slots: int) -> bool:
    try:
        _allocate(policy, geometry, roles, slots)
    except BudgetError:
        return False
    return True
