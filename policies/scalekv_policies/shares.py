"""Spreads tokens over layers and heads that can hold only so many each."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scalekv_core.errors import BudgetError
from scalekv_core.shapes.geometry import CacheGeometry, plural


def refuse_less_than_one_each(geometry: CacheGeometry, slots: int) -> None:
    """Raises BudgetError if a head of a layer would get no token although there is a history to hold."""
    if slots < geometry.slots_per_token and geometry.schedule.last_history:
        raise BudgetError(
            f"the budget buys {plural(slots, 'token')} for {plural(geometry.layers, 'layer')} x {plural(geometry.heads, 'head')}; "
            "give at least 1 token each"
        )


def fair_shares(total: int, limits: NDArray[np.int64], weights: NDArray[np.float64] | None = None) -> NDArray[np.int64]:
    """Spreads ``total`` in proportion to the weights (evenly if None); what exceeds one limit goes to the others.

    Shares are rounded down, so that up to one token each may be left over; those that are alike get the same.

    Args:
        total: at least 0.
        limits: [U] the most that each can hold.
        weights: [U] above 0.

    >>> fair_shares(20, np.array([2, 9, 30])).tolist()
    [2, 9, 9]
    >>> fair_shares(20, np.array([20, 20, 20]), np.array([1.0, 2.0, 1.0])).tolist()
    [5, 10, 5]
    """
    weights = np.ones(len(limits)) if weights is None else weights
    if limits.sum() <= total:
        return limits.copy()
    order = np.argsort(limits / weights, kind="stable")
    full_before = np.cumsum(limits[order]) - limits[order]
    weight_left = np.cumsum(weights[order][::-1])[::-1]
    levels = (total - full_before) / weight_left
    level = levels[np.argmax(levels * weights[order] < limits[order])]
    return np.minimum(limits, np.floor(level * weights).astype(np.int64))
