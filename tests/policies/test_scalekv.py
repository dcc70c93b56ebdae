"""ScaleKV by the paper: roles, budgets and tokens."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from attrs import evolve

from scalekv_core import BudgetError, CacheGeometry, ProfileError, ScaleSchedule
from scalekv_core.contracts.roles import LayerRoles
from scalekv_policies.maps import patch_centres, pool_average, pool_max
from scalekv_policies.scalekv import ScaleKVAllocator, ScaleKVClassifier, ScaleKVSelector
from scalekv_policies.scalekv_reference import ReleasedClassifier

INFINITY = ScaleSchedule.square(1, 2, 4, 6, 8, 12, 16, 20, 24, 32, 40, 48, 64)
INFINITY_2B = CacheGeometry(schedule=INFINITY, layers=32, heads=16, head_dim=128)
INFINITY_8B = CacheGeometry(schedule=INFINITY, layers=40, heads=28, head_dim=128)
WIDE = ScaleSchedule([(1, 1), (2, 5), (4, 9), (7, 15)])
SMALL = CacheGeometry(schedule=WIDE, layers=4, heads=2, head_dim=4)


# -- roles ------------------------------------------------------------------------------------------------------------


def test_layers_that_look_back_and_spread_are_drafters(make_profile):
    """Layer 2 attends to the history most and most evenly, so its index is lowest at every scale."""
    current = np.array([0.7, 0.8, 0.3, 0.75])[None, :, None]
    top = np.array([0.6, 0.9, 0.2, 0.7])[None, :, None]
    roles = ScaleKVClassifier(drafters=0.25).classify(make_profile(SMALL, current=current, top=top), SMALL)
    assert roles.is_role("drafter")[1:].all(axis=(0, 2)).tolist() == [False, False, True, False]
    assert 3 * 2 == roles.is_role("drafter").sum()
    np.testing.assert_allclose(roles.scores[2, :, 0], [0.42, 0.72, 0.06, 0.525], rtol=1e-6)


def test_a_layer_that_looks_at_its_map_only_is_a_refiner_unless_the_print_is_taken_to_the_letter(make_profile):
    """The printed product is zero for the ideal refiner; the conditional index is highest for it."""
    current = np.array([1.0, 0.5, 0.5, 0.6])[None, :, None]
    profile = make_profile(SMALL, current=current, top=np.float64(0.5))
    conditional = ScaleKVClassifier(drafters=0.25).classify(profile, SMALL)
    printed = ScaleKVClassifier(drafters=0.25, form="printed").classify(profile, SMALL)
    assert not conditional.is_role("drafter")[:, 0].any()
    assert printed.is_role("drafter")[1:, 0].all()


@pytest.mark.parametrize("share", [0.3, 0.2])
def test_the_index_follows_the_equations(make_profile, share):
    """Roles equal the equations in loops: the pairs of lowest Z over all scales, their number rounded up."""
    profile = make_profile(SMALL, seed=7)
    roles = ScaleKVClassifier(drafters=share, top=0.2).classify(profile, SMALL)
    z = {}
    for k in range(1, 4):
        index = [
            np.mean([profile.mass[k, layer, h, k] * profile.top_share_at(0.2)[k, layer, h] for h in range(2)])
            for layer in range(4)
        ]
        z |= {(k, layer): (index[layer] - np.mean(index)) / (np.std(index) + 1e-6) for layer in range(4)}
    expected = sorted(z, key=z.__getitem__)[: math.ceil(share * 12)]
    assert set(expected) == {(int(k), int(layer)) for k, layer, _ in np.argwhere(roles.is_role("drafter"))}


def test_the_first_scale_has_no_drafters_and_heads_of_a_layer_agree(make_profile):
    """Scale 0 has no history, so it has no drafters."""
    roles = ScaleKVClassifier(drafters=0.9).classify(make_profile(SMALL), SMALL)
    assert not roles.is_role("drafter")[0].any()
    assert (roles.labels == roles.labels[..., :1]).all()


def test_an_unmeasured_share_is_refused(make_profile):
    """The message lists what the profile has."""
    with pytest.raises(ProfileError, match=r"no concentration for 0.3 of the history; it has 0.01, 0.02"):
        ScaleKVClassifier(top=0.3).classify(make_profile(SMALL), SMALL)


# -- budgets ----------------------------------------------------------------------------------------------------------


def test_the_released_2b_capacities_come_out_exactly():
    """With the released roles and 650 tokens, at all five scales at which something is evicted."""
    roles = ReleasedClassifier().classify(None, INFINITY_2B)
    plan = ScaleKVAllocator().allocate(INFINITY_2B, roles, 650 * 512)
    assert [920, 1490, 2510, 4100, 6385] == plan.held[7:12, 0, 0].tolist()
    assert [920, 1490, 2510, 4100, 465] == plan.held[7:12, 23, 0].tolist()
    assert [632, 594, 526, 420, 465] == plan.held[7:12, 1, 0].tolist()
    assert [1, 5, 21, 57, 121, 265, 521] == plan.held[:7, 1, 0].tolist()
    assert [650 * 512] * 5 == plan.slots()[7:12].tolist()


def test_refiners_of_8b_never_fall_below_the_paper():
    """Where the released files give refiners too little (374 and 200), equation (4) gives 390 and 320."""
    roles = ReleasedClassifier().classify(None, INFINITY_8B)
    plan = ScaleKVAllocator().allocate(INFINITY_8B, roles, 650 * 1120)
    assert [629, 583, 500, 390, 320] == plan.held[7:12, 5, 0].tolist()
    assert [909, 1476, 2500, 3856, 4720] == plan.held[7:12, 0, 0].tolist()


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("mean", [1, 2, 7.3, 64, 257, 1285, 5000])
def test_no_budget_and_no_roles_overspend(mean, seed):
    """Under any roles, also per head, the plan is within the slots, can be held, and spends nearly all of them."""
    rng = np.random.default_rng(seed)
    geometry = CacheGeometry(schedule=INFINITY, layers=6, heads=4, head_dim=8)
    labels = (rng.random((13, 6, 4)) < rng.choice([0.05, 0.3, 0.9])).astype(np.int8)
    slots = int(mean * 24)
    plan = ScaleKVAllocator().allocate(geometry, LayerRoles(("refiner", "drafter"), labels), slots)
    assert plan.capacity.tolist() == plan.held.tolist()
    assert (plan.slots() <= slots).all()
    assert (plan.held[:12] >= 1).all()
    late = np.asarray(INFINITY.seen[:12]) * 24 > slots
    assert (plan.slots()[:12][late] > slots - 24).all()
    assert (plan.held[:12][~late] == np.asarray(INFINITY.seen[:12])[~late, None, None]).all()


def test_refiners_fall_evenly_over_the_scales_that_evict():
    """Refiners fall from 600 to 320 of a mean of 650 over however many scales; drafters get the rest."""
    geometry = CacheGeometry(schedule=INFINITY, layers=4, heads=1, head_dim=8)
    labels = np.zeros((13, 4, 1), dtype=np.int8)
    labels[:, :3] = 1  # many drafters: none is ever full
    plan = ScaleKVAllocator().allocate(geometry, LayerRoles(("refiner", "drafter"), labels), 4 * 65)
    refiners = plan.held[4:12, 3, 0].tolist()
    assert [60, 56, 52, 48, 44, 40, 36, 32] == refiners
    assert [(260 - refiner) // 3 for refiner in refiners] == plan.held[4:12, 0, 0].tolist()


def test_what_some_refiners_cannot_hold_goes_to_the_others():
    """After a large map and small ones, refiners that had little before cannot grow; other layers hold what is left."""
    geometry = CacheGeometry(
        schedule=ScaleSchedule([(1, 1), (4, 5), (1, 3), (1, 1), (1, 1)]), layers=1, heads=6, head_dim=8
    )
    labels = np.zeros((5, 1, 6), dtype=np.int8)
    labels[2, 0, [1, 4, 5]] = labels[3, 0, 2:] = labels[4, 0, [0, 3]] = 1
    plan = ScaleKVAllocator().allocate(geometry, LayerRoles(("refiner", "drafter"), labels), 6 * 18)
    assert [12, 12, 19, 19, 23, 23] == plan.held[2, 0].tolist()
    assert [13, 13, 20, 20, 21, 21] == plan.held[3, 0].tolist()


def test_the_roles_of_the_next_scale_decide():
    """What is held after scale k is what scale k + 1 reads."""
    labels = np.zeros((4, 4, 2), dtype=np.int8)
    labels[3, 1] = 1
    plan = ScaleKVAllocator().allocate(SMALL, LayerRoles(("refiner", "drafter"), labels), 20 * 8)
    assert [20, 20, 20, 20] == plan.held[2, :, 0].tolist() or plan.held[2, 1, 0] > plan.held[2, 0, 0]
    labels[2:] = 0
    labels[2, 1] = 1
    even = ScaleKVAllocator().allocate(SMALL, LayerRoles(("refiner", "drafter"), labels), 20 * 8)
    assert [20] * 4 == even.held[2, :, 0].tolist()


def test_without_drafters_everyone_gets_the_same():
    """Roles of another classifier get an even split."""
    plan = ScaleKVAllocator().allocate(SMALL, LayerRoles.alike("any", SMALL), 20 * 8 + 3)
    assert [[1] * 8, [11] * 8, [20] * 8, [0] * 8] == plan.held.reshape(4, 8).tolist()


def test_less_than_a_token_each_is_refused():
    """Eight heads need at least eight tokens."""
    with pytest.raises(BudgetError, match="the budget buys 7 tokens for 4 layers x 2 heads"):
        ScaleKVAllocator().allocate(SMALL, LayerRoles.alike("any", SMALL), 7)


# -- tokens -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pooling", ["avg", "max", "none"])
def test_the_centres_of_the_patches_always_stay(pooling, make_view):
    """A capacity of four times the window keeps the whole window."""
    view = make_view(WIDE, 3, held=30)
    kept = ScaleKVSelector(pooling=pooling).select(view, 64)
    for centre in patch_centres((1, 7, 15), 16, torch.device("cpu")) + view.history:
        assert (kept == centre).any(dim=-1).all()


def test_without_pooling_the_others_are_those_that_the_window_looks_at(make_view):
    """The selector keeps the top of the summed softmax weights of the window's own queries."""
    view = make_view(WIDE, 3, held=30)
    window = patch_centres((1, 7, 15), 16, torch.device("cpu"))
    mass = (view.q[:, :, window] @ view.k.transpose(2, 3) * view.softmax_scale).softmax(dim=-1).sum(dim=2)
    mass[:, :, window + view.history] = torch.inf
    expected = mass.topk(70).indices.sort().values
    assert torch.equal(expected, ScaleKVSelector(pooling="none").select(view, 70))
    assert torch.equal(expected, ScaleKVSelector(kernel=1).select(view, 70))


def test_a_tiny_capacity_is_not_spent_on_the_window(make_view):
    """A quarter is reserved for the window; a token that every query attends to is kept beside it."""
    view = make_view(WIDE, 3)
    window = patch_centres((1, 7, 15), 16, torch.device("cpu"))
    view.q.fill_(1.0)
    view.k[:, :, 5] = 5.0
    kept = ScaleKVSelector(pooling="none").select(view, 8)
    inside = torch.isin(kept, window + view.history).sum(dim=-1)
    assert (inside >= 2).all()
    assert (kept == 5).any(dim=-1).all()


def test_folded_tokens_count_for_what_they_stand_for(make_view):
    """A token that stands for many gets the attention of many."""
    view = make_view(WIDE, 3)
    counts = torch.ones(view.positions.shape)
    counts[:, :, 7] = 1000.0
    kept = ScaleKVSelector(pooling="none").select(evolve(view, counts=counts), 8)
    assert (kept == 7).any(dim=-1).all()


@pytest.mark.parametrize(("pooling", "pool"), [("avg", pool_average), ("max", pool_max)])
@pytest.mark.parametrize("kernel", [3, 5])
def test_the_others_are_the_best_after_pooling(pooling, pool, kernel, make_view):
    """Scores are pooled on the map that each token comes from, by the given rule and width."""
    view = make_view(WIDE, 3, held=30)
    window = patch_centres((1, 7, 15), 16, torch.device("cpu"))
    mass = (view.q[:, :, window] @ view.k.transpose(2, 3) * view.softmax_scale).softmax(dim=-1).sum(dim=2)
    scores = pool(mass, view, kernel)
    scores[:, :, window + view.history] = torch.inf
    best = scores.topk(70).values.sort().values
    kept = ScaleKVSelector(pooling=pooling, kernel=kernel).select(view, 70)
    torch.testing.assert_close(scores.gather(2, kept).sort().values, best)


def test_scales_are_ranked_by_their_own_spread(make_profile):
    """Z is relative to its scale: a layer below three similar ones precedes the lowest of layers that all differ."""
    current = np.ones((4, 4, 1))
    current[1] = [[0.50], [0.52], [0.51], [0.40]]  # little spread, one far below
    current[2] = [[0.10], [0.90], [0.50], [0.55]]
    current[3] = [[0.15], [0.85], [0.50], [0.45]]
    roles = ScaleKVClassifier(drafters=1 / 12).classify(
        make_profile(SMALL, current=current, top=np.float64(0.5)), SMALL
    )
    assert [[1, 3]] == np.argwhere(roles.is_role("drafter")[..., 0]).tolist()


def test_the_index_as_printed_is_the_product_as_printed(make_profile):
    """The index is share on the map x concentration x (1 - share); at the first scale it is 1."""
    current, top = np.array([0.8, 0.5, 0.3, 0.6])[None, :, None], np.array([0.6, 0.9, 0.2, 0.7])[None, :, None]
    profile = make_profile(SMALL, current=current, top=top)
    printed = ScaleKVClassifier(form="printed").selectivity(profile)
    assert (printed[0] == 1).all()
    np.testing.assert_allclose(printed[2], (current * top * (1 - current))[0, :, 0], rtol=1e-6)


def test_a_classifier_without_a_profile_says_how_to_make_one():
    """The message says what to do, not what failed inside."""
    with pytest.raises(
        ProfileError, match=r"^classifier 'scalekv' needs an attention profile; make one with: scalekv calibrate$"
    ):
        ScaleKVClassifier().classify(None, SMALL)


def test_refiners_may_fall_to_nothing_but_not_below():
    """The decay may be zero, or any that leaves the last share above 0."""
    assert 0.0 == ScaleKVAllocator(decay=0.0).decay
    assert [50, 50] == [ScaleKVAllocator(refiner=0.5, decay=0.0).refiner_tokens(100, step, 3) for step in (0, 2)]
    with pytest.raises(ValueError, match=r"below refiner = 0\.5; got 0\.5"):
        ScaleKVAllocator(refiner=0.5, decay=0.5)
