"""ByScore: capacity in proportion to scores."""

import numpy as np
import pytest

from scalekv_core import BudgetError, CacheGeometry, ScaleSchedule
from scalekv_core.contracts.roles import LayerRoles
from scalekv_policies.by_score import ByScore

GEOMETRY = CacheGeometry(schedule=ScaleSchedule.square(1, 2, 4, 8, 8), layers=2, heads=2, head_dim=8)


def plan_of(scores, slots, **options):
    """The plan under these scores [L, H] at every scale."""
    labels = LayerRoles.alike("any", GEOMETRY).labels
    roles = LayerRoles(("any",), labels, np.broadcast_to(np.asarray(scores, dtype=float), labels.shape))
    return ByScore(**options).allocate(GEOMETRY, roles, slots)


def test_the_model_shares_its_budget_by_score():
    """Every head gets the floor, and the rest is in proportion to the scores."""
    assert [[8, 16], [24, 32]] == plan_of([[1, 2], [3, 4]], 80, floor=0.0).capacity[3].tolist()
    assert [[12, 17], [22, 27]] == plan_of([[1, 2], [3, 4]], 80, floor=0.4).capacity[3].tolist()


def test_layers_are_apart_where_heads_share():
    """Each layer holds the same number of tokens."""
    held = plan_of([[1, 3], [10, 30]], 80, across="layer", floor=0.0).capacity[3]
    assert [[10, 30], [10, 30]] == held.tolist()


def test_a_score_of_zero_still_holds_a_token():
    """Every head has something to attend to in the history."""
    assert 1 == plan_of([[0, 1], [1, 1]], 80, floor=0.0).capacity[3].min()


def test_without_scores_all_get_the_same():
    """A classifier that only assigns roles gives no scores, and then all heads get the same."""
    plan = ByScore().allocate(GEOMETRY, LayerRoles.alike("any", GEOMETRY), 80)
    assert {20} == set(plan.capacity[3].ravel().tolist())


def test_less_than_one_token_each_is_refused():
    """The error is worded like that of the other allocators."""
    with pytest.raises(BudgetError, match="give at least 1 token each"):
        plan_of([[1, 1], [1, 1]], 3)
