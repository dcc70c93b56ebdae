"""H2O: heavy hitters and recent tokens."""

from __future__ import annotations

import torch

from scalekv_core import CacheGeometry, KVCache, ScaleSchedule, plan_policy
from scalekv_policies.h2o import HeavyHitters, h2o

SCHEDULE = ScaleSchedule([(1, 1), (2, 3), (3, 4), (5, 6)])


def test_the_score_is_all_attention_so_far():
    """The statistic in the cache is the sum of the softmax weights of every query of every map."""
    geometry = CacheGeometry(schedule=SCHEDULE, layers=1, heads=2, head_dim=4)
    seen = []
    plan = plan_policy(h2o(), geometry, budget="100%").plan
    cache = KVCache(plan, h2o(), observer=lambda view, kept: seen.append(view))
    for tokens in SCHEDULE.tokens[:3]:
        cache.attend(0, *torch.randn(3, 1, 2, tokens, 4), softmax_scale=0.5)
    expected = torch.zeros(1, 2, 19)
    for view in seen:
        weights = (view.q @ view.k.transpose(2, 3) * 0.5).softmax(dim=-1).sum(dim=2)
        expected[:, :, : view.tokens] += weights
    torch.testing.assert_close(expected, seen[-1].statistics["mass"])


def test_half_is_recent_and_half_is_heavy(make_view, chosen):
    """The last tokens are always kept; the others are those of the largest attention mass."""
    view = make_view(SCHEDULE, 2, statistics=("mass",))
    view.statistics["mass"][:, :, [0, 3, 5]] = 50.0
    assert [0, 3, 5, 16, 17, 18] == chosen(HeavyHitters(), view, 6)[1, 1].tolist()


def test_without_recent_tokens_mass_alone_decides(make_view, chosen):
    """``recent=0`` leaves the greedy half of the method."""
    view = make_view(SCHEDULE, 2, statistics=("mass",))
    total = HeavyHitters().observe(view)["mass"]
    assert torch.equal(total.topk(7).indices.sort().values, chosen(HeavyHitters(recent=0.0), view, 7))
