"""Spreading tokens over layers and heads with limits."""

import numpy as np
import pytest
from attrs import evolve

from scalekv_core import BudgetError, CacheGeometry, ScaleSchedule
from scalekv_policies.shares import fair_shares, refuse_less_than_one_each


@pytest.mark.parametrize("seed", range(20))
def test_shares_keep_within_limits_and_leave_less_than_a_token_each(seed):
    """No token is spent twice, no limit is exceeded, and nearly everything is spent."""
    rng = np.random.default_rng(seed)
    limits = rng.integers(0, 50, size=12)
    total = int(rng.integers(0, 400))
    shares = fair_shares(total, limits)
    assert (shares <= limits).all()
    assert min(total, limits.sum()) - len(limits) < shares.sum() <= total
    open_places = shares[shares < limits]
    assert len(set(open_places.tolist())) <= 1
    assert not len(open_places) or shares.max() == open_places[0]


def test_weights_set_the_proportion_of_those_that_are_not_full():
    """The one with the largest weight is full; the two others share what is left as 1 to 3."""
    assert [5, 15, 4] == fair_shares(24, np.array([100, 100, 4]), np.array([1.0, 3.0, 9.0])).tolist()


def test_a_schedule_of_one_map_has_nothing_to_hold():
    """Without history no budget is too small."""
    geometry = CacheGeometry(schedule=ScaleSchedule([(3, 4)]), layers=2, heads=2, head_dim=8)
    refuse_less_than_one_each(geometry, 0)
    with pytest.raises(BudgetError, match="buys 3 tokens"):
        refuse_less_than_one_each(evolve(geometry, schedule=ScaleSchedule([(1, 1), (3, 4)])), 3)
