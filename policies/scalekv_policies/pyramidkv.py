"""PyramidKV: lower layers hold more than higher ones, in equal steps; tokens are selected as in SnapKV.

Cai et al., "PyramidKV: Dynamic KV Cache Compression based on Pyramidal Information Funneling", arXiv 2406.02069.
"""

from __future__ import annotations

import numpy as np
from attrs import field, frozen
from attrs.validators import ge

from scalekv_core.contracts.plan import CachePlan
from scalekv_core.contracts.policy import Policy
from scalekv_core.contracts.roles import LayerRoles
from scalekv_core.contracts.strategies import BudgetAllocator
from scalekv_core.shapes.geometry import CacheGeometry
from scalekv_policies.shares import fair_shares, refuse_less_than_one_each
from scalekv_policies.snapkv import SnapSelector


@frozen(kw_only=True)
class PyramidBudget(BudgetAllocator):
    """Capacities that fall linearly from the first to the last of the L layers, with mean B::

        B(last) = B / beta,       B(first) = 2 B - B(last)

    At every scale; what a layer can't hold yet goes to the others in the same proportion. All heads of a layer hold the
    same, and at least one token. (The paper adds its window to every layer; here it is part of the capacity.)

    Attributes:
        beta: how steep, at least 1; the paper's 20 gives the first layer 39 times what the last one has. 1 is even.

    Raises:
        BudgetError: the budget is less than one token per layer and head.
    """

    beta: float = field(default=20.0, validator=ge(1.0))

    def allocate(self, geometry: CacheGeometry, roles: LayerRoles, slots: int) -> CachePlan:
        refuse_less_than_one_each(geometry, slots)
        least = int(slots < self.beta * geometry.slots_per_token)  # where B / beta is no whole token
        weights = np.linspace(2 - 1 / self.beta, 1 / self.beta, geometry.layers) if geometry.layers > 1 else np.ones(1)
        schedule, heads = geometry.schedule, geometry.heads
        keepable = schedule.keepable()
        capacity = np.zeros((len(schedule), geometry.layers), dtype=np.int64)
        for k in np.flatnonzero(keepable):
            before = capacity[k - 1] if k else np.zeros_like(capacity[0])
            attainable = np.minimum(before + schedule.tokens[k], keepable[k])
            capacity[k] = least + fair_shares(slots // heads - least * geometry.layers, attainable - least, weights)
        return CachePlan(schedule, np.repeat(capacity[..., None], heads, axis=2))


def pyramidkv() -> Policy:
    """Keeps the tokens that the last queries of each map attend to; lower layers hold more."""
    return Policy(
        name="pyramidkv",
        allocator=PyramidBudget(),
        selector=SnapSelector(),
        paper="PyramidKV: Dynamic KV Cache Compression based on Pyramidal Information Funneling, arXiv 2406.02069",
    )
