"""HeatKV: scores by source scale, and the schedule of the released code."""

import numpy as np
import pytest

from scalekv_core import BudgetError, CacheGeometry, ScaleSchedule, plan_policy
from scalekv_core.contracts.roles import LayerRoles
from scalekv_policies.heatkv import ScaleAttention, WholeMapsPerHead, heatkv, removal_turns
from scalekv_policies.scalekv_reference import SQUARE_1M

MODELS = {"2b": (32, 16), "8b": (40, 28)}
# What the released function computes for the published orders: how many heads have lost each map after scales 7 to 11.
PUBLISHED = {
    ("2b", "10%"): [0, 159, 297, 385, 435, 463],
    ("8b", "10%"): [0, 347, 649, 842, 951, 1012],
    ("2b", "5%"): [205, 342, 408, 451, 475, 488],
    ("8b", "5%"): [448, 747, 893, 986, 1038, 1068],
}
SMALL = CacheGeometry(schedule=ScaleSchedule.square(1, 2, 3, 4, 5, 6), layers=3, heads=2, head_dim=8)


def plan_of(geometry, slots, seed=0, **options):
    """The plan under random scores."""
    roles = LayerRoles.alike("any", geometry)
    scores = np.random.default_rng(seed).random(roles.labels.shape)
    return WholeMapsPerHead(**options).allocate(geometry, LayerRoles(roles.names, roles.labels, scores), slots)


@pytest.mark.parametrize(("model", "budget"), PUBLISHED)
def test_as_many_heads_lose_each_map_as_in_the_released_code(model, budget):
    """From the fourth on, each source scale is evicted in the same number of heads; the first three are kept in all."""
    layers, heads = MODELS[model]
    geometry = CacheGeometry(schedule=SQUARE_1M, layers=layers, heads=heads, head_dim=128)
    slots = int(layers * heads * SQUARE_1M.last_history * float(budget[:-1]) / 100)
    quota = plan_of(geometry, slots, spend_rest=False).quota
    for scale, expected in zip(range(6, 12), PUBLISHED[model, budget], strict=True):
        whole = (quota[scale] == np.asarray(SQUARE_1M.tokens)).sum(axis=(0, 1))
        assert [0, 0, 0] == (layers * heads - whole[:3]).tolist()
        assert {expected} == set((layers * heads - whole[3 : scale + 1]).tolist())


def test_the_lowest_scores_of_each_source_scale_go_first():
    """Ties are resolved by head, then by layer."""
    scores = np.zeros((6, 3, 2))
    scores[4] = [[5, 0], [1, 1], [0, 4]]
    turns = removal_turns(LayerRoles(("any",), np.zeros(scores.shape, dtype=np.int8), scores), SMALL.schedule)
    assert [[0, 3], [1, 4], [2, 5]] == turns[0].tolist()
    assert [[5, 1], [2, 3], [0, 4]] == turns[4].tolist()


def test_scores_are_the_attention_of_later_scales(make_profile):
    """The score is the mean over target scales of the attention mass that each head gives a source scale."""
    profile = make_profile(SMALL)
    scores = ScaleAttention().classify(profile, SMALL).scores
    assert scores[3, 1, 0] == pytest.approx((profile.mass[4, 1, 0, 3] + profile.mass[5, 1, 0, 3]) / 2)
    assert not scores[5].any()


def test_what_rounding_leaves_goes_to_the_heads_that_lost_a_map_last():
    """Every scale holds what the budget buys; no head gets back what was evicted before."""
    for slots in range(14 * 6, 55 * 6, 7):
        plan = plan_of(SMALL, slots, seed=slots)
        seen = np.asarray(SMALL.schedule.seen[:-1]) * 6
        held = plan.slots()[:-1]
        assert (held <= slots).all()
        assert (
            held > np.minimum(slots, np.minimum(seen, np.concatenate([[slots], held[:-1] + np.diff(seen)]))) - 9
        ).all()


def test_less_than_the_protected_maps_is_refused(make_profile):
    """The message says how many tokens these are and which budget works: 0.33 % of Infinity's history."""
    geometry = CacheGeometry(schedule=SQUARE_1M, layers=32, heads=16, head_dim=128)
    with pytest.raises(
        BudgetError, match=r"the first 3 maps are 21 tokens of every head; the budget buys 19.3.*'0.33% of history'"
    ):
        plan_policy(heatkv(), geometry, budget="0.3%", profile=make_profile(geometry))


def test_heads_hold_other_maps(make_profile):
    """Each head stores only what it holds, so bytes are planned by head."""
    rng = np.random.default_rng(0)
    profile = make_profile(SMALL, current=rng.uniform(0.1, 0.9, (6, 3, 2)))
    plan = plan_policy(heatkv(), SMALL, budget="40%", profile=profile).plan
    assert len({tuple(row) for row in plan.quota[4].reshape(-1, 6).tolist()}) > 1
