"""An allocator for classifiers that score layers and heads: capacity in proportion to the scores."""

from __future__ import annotations

from typing import Literal

import numpy as np
from attrs import field, frozen
from attrs.validators import ge, in_, le
from numpy.typing import NDArray

from scalekv_core.contracts.plan import CachePlan
from scalekv_core.contracts.roles import LayerRoles
from scalekv_core.contracts.strategies import BudgetAllocator
from scalekv_core.shapes.geometry import CacheGeometry
from scalekv_policies.shares import fair_shares, refuse_less_than_one_each

LEAST = 1e-6
"""The least weight of a score, as a share of the mean, so that shares exist where all scores are zero."""


@frozen(kw_only=True)
class ByScore(BudgetAllocator):
    """Capacities in proportion to the scores of the next scale, above a part of the budget that is spread evenly::

        B(l, h) = B  x  ( floor + (1 - floor)  x  score(l, h) / mean score )

    What a head can't hold yet goes to the others in the same proportion; every head holds at least one token. Without scores all
    get the same.

    Attributes:
        across: ``model`` shares the whole budget; ``layer`` gives every layer the same and shares that among its heads.
        floor: the share of the budget that is spread evenly, in [0, 1].

    Raises:
        BudgetError: the budget is less than one token per layer and head.
    """

    across: Literal["model", "layer"] = field(default="model", validator=in_(("model", "layer")))
    floor: float = field(default=0.2, validator=[ge(0.0), le(1.0)])

    def allocate(self, geometry: CacheGeometry, roles: LayerRoles, slots: int) -> CachePlan:
        refuse_less_than_one_each(geometry, slots)
        schedule, shape = geometry.schedule, (geometry.layers, geometry.heads)
        capacity = np.zeros((len(schedule), *shape), dtype=np.int64)
        before = np.zeros(shape, dtype=np.int64)
        for k, new in enumerate(schedule.tokens[:-1]):
            weights = self._weights(roles, k + 1)
            limits = before + new
            if self.across == "model":
                before = _shares(slots, limits, weights)
            else:
                before = np.stack([_shares(slots // len(limits), *of) for of in zip(limits, weights, strict=True)])
            capacity[k] = before
        return CachePlan(schedule, capacity)

    def _weights(self, roles: LayerRoles, scale: int) -> NDArray[np.float64]:
        """[L, H] weights with mean 1."""
        if roles.scores is None:
            return np.ones(roles.labels.shape[1:])
        scores = np.maximum(roles.scores[scale].astype(np.float64), 0)
        mean = scores.mean() if self.across == "model" else scores.mean(axis=1, keepdims=True)
        share = np.divide(scores, mean, out=np.ones_like(scores), where=mean > 0)
        return np.maximum(self.floor + (1 - self.floor) * share, LEAST)


def _shares(slots: int, limits: NDArray[np.int64], weights: NDArray[np.float64]) -> NDArray[np.int64]:
    """Spreads the slots in proportion to the weights; every head gets one token first where some would get none."""
    shares = fair_shares(slots, limits.ravel(), weights.ravel())
    if not shares.all():
        one = np.minimum(limits, 1)
        shares = one.ravel() + fair_shares(slots - int(one.sum()), (limits - one).ravel(), weights.ravel())
    return shares.reshape(limits.shape)
