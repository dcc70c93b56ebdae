"""PyramidKV: capacities that fall from layer to layer."""

import numpy as np
import pytest

from scalekv_core import CacheGeometry, ScaleSchedule
from scalekv_core.contracts.roles import LayerRoles
from scalekv_policies.pyramidkv import PyramidBudget

SCHEDULE = ScaleSchedule.square(1, 2, 4, 8, 16, 20)
GEOMETRY = CacheGeometry(schedule=SCHEDULE, layers=5, heads=2, head_dim=4)
ROLES = LayerRoles.alike("any", GEOMETRY)


def test_layers_step_down_evenly_where_nothing_is_full():
    """Capacities are an arithmetic sequence from 2 B - B / beta to B / beta."""
    plan = PyramidBudget(beta=20).allocate(GEOMETRY, ROLES, 100 * 10)
    assert [195, 147, 100, 52, 5] == plan.capacity[4, :, 0].tolist()


def test_two_layers_are_a_pyramid_too():
    """Two layers differ by the whole range."""
    two = CacheGeometry(schedule=SCHEDULE, layers=2, heads=2, head_dim=4)
    plan = PyramidBudget(beta=20).allocate(two, LayerRoles.alike("any", two), 100 * 4)
    assert [195, 5] == plan.capacity[4, :, 0].tolist()


@pytest.mark.parametrize("slots", [10, 95, 333, 1000, 2000])
def test_the_budget_is_spent_and_not_overspent(slots):
    """Less than one token per layer and at most one per head is unspent; other layers get what one cannot hold."""
    plan = PyramidBudget().allocate(GEOMETRY, ROLES, slots)
    there = np.minimum(np.asarray(SCHEDULE.keepable()) * 10, slots)
    assert (plan.slots() <= there).all()
    assert (plan.slots() > there - 2 * 10 - 2).all() or slots < 100
    assert plan.capacity.tolist() == plan.held.tolist()


def test_one_layer_and_beta_one_are_even():
    """With beta = 1, or with one layer, every layer holds the same."""
    plan = PyramidBudget(beta=1).allocate(GEOMETRY, ROLES, 500)
    assert [50] * 5 == plan.capacity[4, :, 1].tolist()
    one = CacheGeometry(schedule=SCHEDULE, layers=1, heads=2, head_dim=4)
    assert 50 == PyramidBudget().allocate(one, LayerRoles.alike("any", one), 100).capacity[4, 0, 0]
