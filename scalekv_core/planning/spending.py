"""Spending a budget: the slots it buys, the plan that the allocator makes of them, and whether that plan works."""

from __future__ import annotations

from fractions import Fraction
from functools import cached_property

from attrs import frozen

from scalekv_core.contracts.encoded import KINDS
from scalekv_core.contracts.liveness import alive_prefix
from scalekv_core.contracts.plan import CachePlan, everything
from scalekv_core.contracts.policy import Policy
from scalekv_core.contracts.roles import LayerRoles
from scalekv_core.errors import BudgetError, ContractError
from scalekv_core.planning.budget import Budget, Unit
from scalekv_core.planning.enough import refuse_too_little
from scalekv_core.planning.footprint import Footprint, footprint
from scalekv_core.shapes.geometry import CacheGeometry, plural


@frozen(eq=False)
class Spending:
    """A policy in a model, to be planned under any budget.

    Attributes:
        policy, geometry: of what.
        roles: what the classifier answered.
    """

    policy: Policy
    geometry: CacheGeometry
    roles: LayerRoles

    @cached_property
    def whole_bytes(self) -> int:
        """Bytes of the whole history, as this policy stores it."""
        return footprint(everything(self.geometry), self.policy, self.geometry).most_planned

    @cached_property
    def slot_bytes(self) -> Fraction:
        """Bytes of one slot, as this policy stores it."""
        return stored_slot_bytes(self.policy, self.geometry)

    def whole(self, unit: Unit) -> Fraction:
        """The whole history of the last scale in this unit."""
        schedule = self.geometry.schedule
        whole = {
            "history": Fraction(1),
            "all": Fraction(schedule.last_history, schedule.total),
            "tokens": Fraction(schedule.last_history),
            "bytes": Fraction(self.whole_bytes),
        }
        return whole[unit]

    def slots_bought(self, budget: Budget) -> int:
        """Slots that a budget buys in one row if all slots cost the same.

        Raises:
            BudgetError: the budget is more than the whole history.
        """
        return budget.slots(self.geometry, slot_bytes=self.slot_bytes, whole_bytes=self.whole_bytes)

    def spend(self, budget: Budget) -> tuple[int, CachePlan, Footprint]:
        """The (slots, plan, bytes) of a budget.

        A codec that stores ranges beside its codes pays more for each slot the fewer there are, so a budget in bytes may buy
        fewer than the division says.

        Raises:
            BudgetError: the budget is more than the whole history, or too little for the allocator or the selector.
            ContractError: the allocator broke its contract.
        """
        slots = self.slots_bought(budget)
        while True:
            plan = self.allocate(slots)
            weighs = footprint(plan, self.policy, self.geometry)
            if budget.unit != "bytes" or weighs.most_planned <= budget.amount:
                return slots, plan, weighs
            slots = min(slots - 1, int(slots * budget.amount / weighs.most_planned))

    def allocate(self, slots: int) -> CachePlan:
        """The allocator's plan; refused if it exceeds the budget or leaves the selector too few tokens."""
        policy, geometry = self.policy, self.geometry
        plan = self._plan(slots)
        plan.check_fits(geometry)
        for scale, held in enumerate(plan.slots().tolist()):
            if held > slots:
                raise ContractError(
                    f"allocator {type(policy.allocator).__name__} of policy {policy.name!r} gave out {held} slots after "
                    f"scale {scale}; the budget is {slots} ({slots / geometry.slots_per_token:.1f} tokens per head)"
                )
        refuse_too_little(policy, plan)
        return plan

    def _plan(self, slots: int) -> CachePlan:
        """The allocator's plan; a text prefix is subtracted from the budget first, since all heads hold it."""
        geometry, allocator = self.geometry, self.policy.allocator
        if not geometry.schedule.prefix:
            return allocator.allocate(geometry, self.roles, slots)
        schedule, places = geometry.schedule, geometry.slots_per_token
        text = max(alive_prefix(schedule, scale) for scale in range(len(schedule)))
        if slots < text * places or (slots == text * places and geometry.of_maps.schedule.last_history):
            raise BudgetError(
                f"it buys {slots / places:.1f} tokens per head, and the {plural(text, 'token')} of the text are always kept"
            )
        plan = allocator.allocate(geometry.of_maps, self.roles.without_prefix(), slots - text * places)
        plan.check_fits(geometry.of_maps)
        return plan.with_prefix(geometry.schedule)


def stored_slot_bytes(policy: Policy, geometry: CacheGeometry) -> Fraction:
    """Bytes of one slot: key, value, position, count and statistics of one token in one head, as this policy stores them."""
    tokens = max(1, geometry.schedule.last_history)
    codes = sum(
        policy.codec.nbytes(
            kind, rows=1, heads=1, tokens=tokens, maps=1, head_dim=geometry.head_dim, dtype=geometry.dtype
        )
        for kind in KINDS
    )
    words = 1 + len(policy.selector.statistics) + (not policy.merger.drops)
    return Fraction(codes, tokens) + 4 * words
