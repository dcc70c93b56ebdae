"""The toy's policy: the simplest allocator and selector."""

from __future__ import annotations

import numpy as np
from attrs import frozen
from torch import Tensor

from scalekv_core import ops
from scalekv_core.contracts.plan import CachePlan
from scalekv_core.contracts.policy import Policy
from scalekv_core.contracts.roles import LayerRoles
from scalekv_core.contracts.strategies import BudgetAllocator, TokenSelector
from scalekv_core.contracts.view import CacheView
from scalekv_core.shapes.geometry import CacheGeometry


@frozen
class Even(BudgetAllocator):
    """The same capacity everywhere."""

    def allocate(self, geometry: CacheGeometry, roles: LayerRoles, slots: int) -> CachePlan:
        share = slots // geometry.slots_per_token
        keepable = np.minimum(geometry.schedule.keepable(), share)
        shape = (len(geometry.schedule), geometry.layers, geometry.heads)
        return CachePlan(geometry.schedule, np.broadcast_to(keepable[:, None, None], shape))


@frozen
class Latest(TokenSelector):
    """The last tokens."""

    def select(self, view: CacheView, keep: int) -> Tensor:
        return ops.all_tokens(view.k, view.tokens - keep, view.tokens)


def latest() -> Policy:
    """The toy policy: equal capacities, last tokens."""
    return Policy(name="toy-latest", allocator=Even(), selector=Latest(), budget="50%", paper="none")
