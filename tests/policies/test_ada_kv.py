"""Ada-KV: heads share a layer's budget by how much their strongest tokens hold."""

import numpy as np
import pytest

from scalekv_core import AttentionProfile, CacheGeometry, ScaleSchedule, plan_policy
from scalekv_policies.ada_kv import HeadDemand, ada_kv

SCHEDULE = ScaleSchedule.square(1, 2, 4)
GEOMETRY = CacheGeometry(schedule=SCHEDULE, layers=1, heads=2, head_dim=8)


def profile_of(current, share, fractions=(0.1, 0.5)):
    """Two heads of one layer, the same at every scale."""
    mass = np.zeros((3, 1, 2, 3), dtype=np.float32)
    for k in range(3):
        mass[k, 0, :, k] = current if k else 1.0
        mass[k, 0, :, :k] = (1 - np.asarray(current))[:, None] / max(k, 1)
    share = np.broadcast_to(np.asarray(share, dtype=np.float32), (3, 1, 2, len(fractions)))
    return AttentionProfile(model="synthetic", schedule=SCHEDULE, mass=mass, top_share=share, fractions=fractions)


def test_a_concentrated_head_wins_its_peak_and_the_other_the_rest():
    """Pieces by steepness: 0.9/0.1 of the first head, then 0.8/0.4 and 0.15/0.1 of the second."""
    profile = profile_of([0.5, 0.5], [[0.9, 1.0], [0.15, 0.95]])
    np.testing.assert_allclose(HeadDemand(budget=0.25).demand(profile)[2, 0], [0.1, 0.4])


def test_heads_that_look_at_their_own_map_need_less():
    """A head with less attention on the history and the same concentration gets less."""
    profile = profile_of([0.9, 0.5], [[0.3, 0.8], [0.3, 0.8]])
    np.testing.assert_allclose(HeadDemand(budget=0.25).demand(profile)[2, 0], [0.0, 0.5])


def test_heads_that_are_alike_win_the_same():
    """Heads that tie share what is left of the budget."""
    profile = profile_of([0.5, 0.5], [[0.3, 0.8], [0.3, 0.8]])
    np.testing.assert_allclose(HeadDemand(budget=0.3).demand(profile)[2, 0], [0.3, 0.3])


def test_the_order_of_fractions_does_not_matter():
    """Fractions count by their value."""
    one = profile_of([0.5, 0.4], [[0.9, 1.0], [0.15, 0.95]])
    other = profile_of([0.5, 0.4], [[1.0, 0.9], [0.95, 0.15]], fractions=(0.5, 0.1))
    np.testing.assert_allclose(HeadDemand().demand(one), HeadDemand().demand(other))


def test_every_layer_holds_the_same(make_profile):
    """Heads compete within their layer; a fifth of the budget is spread evenly."""
    geometry = CacheGeometry(schedule=ScaleSchedule.square(1, 2, 4, 6, 8), layers=3, heads=4, head_dim=8)
    planned = plan_policy(ada_kv(), geometry, budget="40%", profile=make_profile(geometry))
    held = planned.plan.held[3]
    assert held.sum(axis=1) == pytest.approx(planned.slots / 3, abs=4)
    assert held.min() >= int(0.2 * planned.slots / 12)
    assert held.max() > held.min()
