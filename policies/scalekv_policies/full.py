"""Keeps every token that a later scale attends to: lossless, and what other policies are compared with.

The unmodified models also store the keys and values of the last scale, to which no later scale attends (39 % of the tokens at
1024 x 1024), and Infinity stores its keys in float32 although attention reads them in bfloat16.
"""

from __future__ import annotations

from typing import ClassVar

from attrs import frozen

from scalekv_core.contracts import plan
from scalekv_core.contracts.plan import CachePlan
from scalekv_core.contracts.policy import Policy
from scalekv_core.contracts.roles import LayerRoles
from scalekv_core.contracts.strategies import BudgetAllocator
from scalekv_core.errors import BudgetError
from scalekv_core.shapes.geometry import CacheGeometry
from scalekv_policies.uniform import UniformSelector


@frozen
class Everything(BudgetAllocator):
    """Gives every head the whole history, whatever budget remains.

    Raises:
        BudgetError: the budget is less than the history that enters the last scale.
    """

    spends_all: ClassVar[bool] = False

    def allocate(self, geometry: CacheGeometry, roles: LayerRoles, slots: int) -> CachePlan:
        history = geometry.schedule.last_history
        if slots < history * geometry.slots_per_token:
            raise BudgetError(
                f"policy 'full' holds the whole history, {history} tokens per head; the budget buys "
                f"{slots / geometry.slots_per_token:.1f}; leave out the budget or choose another policy"
            )
        return plan.everything(geometry)


def full() -> Policy:
    """Keeps every token that a later scale attends to: bit-identical images."""
    return Policy(name="full", allocator=Everything(), selector=UniformSelector(), budget="100%")
