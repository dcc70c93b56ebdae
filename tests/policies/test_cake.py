"""CAKE: preferences of layers, and tokens that only some queries attend to."""

import numpy as np
import pytest
import torch
from attrs import evolve

from scalekv_core import CacheGeometry, ProfileError, ScaleSchedule, ops, plan_policy
from scalekv_policies.cake import LayerPreference, MeanAndVariance, cake

SCHEDULE = ScaleSchedule.square(1, 2, 3, 4)
GEOMETRY = CacheGeometry(schedule=SCHEDULE, layers=3, heads=2, head_dim=8)


def profile_with(make_profile, entropy, variance):
    """A profile of three layers with this entropy and column variance."""
    shape = (4, 3, 2)
    entropy, variance = (np.broadcast_to(np.asarray(x)[:, None], shape).astype(np.float32) for x in (entropy, variance))
    return evolve(make_profile(GEOMETRY), entropy=entropy, column_variance=variance)


def test_preference_is_entropy_times_variance(make_profile):
    """Each factor is raised to one over its temperature."""
    profile = profile_with(make_profile, [1, 4, 9], [2, 1, 1])
    assert [[2, 2], [4, 4], [9, 9]] == LayerPreference().classify(profile, GEOMETRY).scores[3].tolist()
    assert [[2, 2], [2, 2], [3, 3]] == LayerPreference(dispersion=2.0).classify(profile, GEOMETRY).scores[3].tolist()


def test_layers_hold_in_proportion_to_their_preference(make_profile):
    """The proportion holds at every scale at which something is evicted."""
    profile = profile_with(make_profile, [1, 1, 2], [1, 1, 1])
    planned = plan_policy(cake(), GEOMETRY, budget="8 tokens", profile=profile)
    assert [[6, 6], [6, 6], [12, 12]] == planned.plan.held[2].tolist()


def test_scores_are_the_sum_and_the_variance_over_the_window(make_view):
    """The scores equal a direct computation."""
    view = make_view(SCHEDULE, 3)
    attention = ops.attention_probabilities(view.q[:, :, -5:], view.k, view.softmax_scale)
    expected = attention.sum(dim=2) + 200.0 * 5 * attention.var(dim=2, correction=0)
    torch.testing.assert_close(expected, MeanAndVariance().window_scores(view, 5))


def test_a_token_that_one_query_needs_beats_one_that_all_look_at_a_little(make_view):
    """The variance over queries makes the difference."""
    view = make_view(SCHEDULE, 3, rows=1, heads=(0,))
    q, k = torch.zeros_like(view.q), torch.zeros_like(view.k)
    k[..., 0, 0], k[..., 1, 1] = 20.0, 2.0
    q[..., -1, 0], q[..., 1] = 1.0, 1.0
    kept = MeanAndVariance(window=8, kernel=1, protect=0.0).select(evolve(view, q=q, k=k), 1)
    assert [0] == kept.flatten().tolist()


def test_a_profile_of_an_older_version_is_refused(make_profile):
    """The message has the command that measures what the profile lacks."""
    with pytest.raises(ProfileError, match=r"has no entropy.*scalekv calibrate --model synthetic"):
        plan_policy(cake(), GEOMETRY, budget="50%", profile=make_profile(GEOMETRY, further=False))
