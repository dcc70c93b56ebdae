"""Policy ``full``, which evicts nothing that a later scale attends to."""

import pytest

from scalekv_core import Budget, BudgetError, CacheGeometry, ScaleSchedule, plan_policy
from scalekv_policies.full import full

GEOMETRY = CacheGeometry(schedule=ScaleSchedule([(1, 1), (2, 3), (4, 5)]), layers=2, heads=3, head_dim=4)


def test_it_holds_all_that_a_later_scale_reads():
    """The plan holds everything seen so far, and nothing after the last scale; its own budget is exactly that."""
    planned = plan_policy(full(), GEOMETRY)
    assert [1, 7, 0] == planned.plan.held[:, 1, 2].tolist()
    assert 7 * 6 == planned.slots
    assert not planned.plan.drops


def test_it_refuses_to_hold_less():
    """A smaller budget is refused, since ``full`` does not compress."""
    with pytest.raises(BudgetError, match=r"policy 'full' holds the whole history, 7 tokens .* leave out the budget"):
        plan_policy(full(), GEOMETRY, budget=Budget.parse("6 tokens"))
