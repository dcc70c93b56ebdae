"""Policies that choose by position alone."""

from __future__ import annotations

import pytest
import torch

from scalekv_core import BudgetError, CacheGeometry, ScaleSchedule, plan_policy
from scalekv_core.contracts.roles import LayerRoles
from scalekv_policies.uniform import EvenBudget, UniformSelector, spaced_order, uniform

INFINITY = ScaleSchedule.square(1, 2, 4, 6, 8, 12, 16, 20, 24, 32, 40, 48, 64)
WIDE = ScaleSchedule([(1, 1), (2, 5), (4, 9), (7, 15)])
every_pick = pytest.mark.parametrize("pick", ["spaced", "recent", "random"])


def test_even_capacities_are_what_was_seen_or_the_mean():
    """Every head gets floor(slots / heads) tokens, but never more than there are."""
    geometry = CacheGeometry(schedule=WIDE, layers=2, heads=3, head_dim=4)
    plan = EvenBudget().allocate(geometry, LayerRoles.alike("any", geometry), 6 * 20 + 5)
    assert [1, 11, 20, 0] == plan.capacity[:, 1, 2].tolist()
    assert plan.capacity.tolist() == plan.held.tolist()


def test_less_than_a_token_each_is_refused():
    """A budget that leaves a head without history is refused."""
    geometry = CacheGeometry(schedule=WIDE, layers=2, heads=3, head_dim=4)
    with pytest.raises(BudgetError, match="2 layers x 3 heads; give at least 1 token each"):
        plan_policy(uniform(), geometry, budget="0.9 tokens")


@every_pick
def test_more_room_keeps_what_less_room_keeps(pick, make_view):
    """A larger keep is a superset of a smaller one."""
    view = make_view(WIDE, 3, held=30)
    selector = UniformSelector(pick=pick, seed=5)
    before: set[int] = set()
    for keep in range(1, view.tokens):
        kept = set(selector.select(view, keep)[1, 2].tolist())
        assert before < kept
        before = kept


@every_pick
def test_cutting_scale_by_scale_ends_where_one_cut_ends(pick, make_view):
    """Repeated eviction thins the history evenly instead of removing every other token again and again."""
    keep, selector = 20, UniformSelector(pick=pick, seed=5)
    positions = torch.arange(1).expand(1, 3, -1)
    for scale in range(1, 4):
        view = make_view(WIDE, scale, held=positions.shape[2], rows=1)
        latest = view.positions[:, :, positions.shape[2] :]
        positions = torch.cat([positions, latest], dim=2)
        view.positions.copy_(positions)
        if view.tokens > keep:
            positions = positions.gather(2, selector.select(view, keep))
    assert torch.equal(selector.select(make_view(WIDE, 3, rows=1), keep), positions)


def test_spaced_gives_every_map_its_share(make_view):
    """Each map is kept in proportion to its tokens, within 2 tokens and 2 %, and at least its first token is kept."""
    view = make_view(INFINITY, 10, rows=1, heads=(0,), width=2)
    kept = UniformSelector().select(view, 650)[0, 0]
    share = 650 / view.tokens
    for scale, tokens in enumerate(INFINITY.tokens[:11]):
        start = INFINITY.history[scale]
        there = int(((kept >= start) & (kept < start + tokens)).sum())
        assert abs(there - share * tokens) <= 2 + 0.02 * share * tokens
        assert start in kept


def test_spaced_covers_the_picture_evenly():
    """No block of 8 x 8 of a 40 x 40 map is empty or crowded when a tenth is kept."""
    order = spaced_order(ScaleSchedule.square(40), 0, torch.device("cpu")).view(40, 40)
    kept = (order < 2**32 // 10).view(5, 8, 5, 8).sum(dim=(1, 3))
    assert 5 <= int(kept.min()) <= int(kept.max()) <= 8


def test_random_depends_on_seed_layer_and_head_and_on_nothing_else(make_view):
    """No generator is used: rows of a batch get the same, heads and seeds differ, all positions are as likely."""
    view = make_view(WIDE, 3)
    kept = UniformSelector(pick="random").select(view, 40)
    assert torch.equal(kept[0], kept[1])
    assert not torch.equal(kept[0, 0], kept[0, 1])
    assert not torch.equal(kept, UniformSelector(pick="random", seed=1).select(view, 40))
    draws = torch.stack([UniformSelector(pick="random", seed=seed).select(view, 38) for seed in range(200)])
    frequency = draws.flatten().bincount(minlength=view.tokens) / draws[..., 0].numel()
    assert 0.15 < float(frequency.min()) < 38 / view.tokens < float(frequency.max()) < 0.35


def test_recent_keeps_the_end(make_view):
    """The last tokens of the sequence."""
    view = make_view(WIDE, 3, held=12)
    assert list(range(107, 117)) == UniformSelector(pick="recent").select(view, 10)[0, 0].tolist()


def test_a_seed_draws_the_same_tokens_on_every_machine(make_view):
    """These scores are written down here: a release that changes them changes everybody's recorded runs."""
    view = make_view(WIDE, 3, rows=1, heads=(0, 3))
    kept = UniformSelector(pick="random", seed=7).select(view, 6)[0].tolist()
    assert [[8, 25, 42, 81, 104, 145], [29, 31, 62, 81, 111, 118]] == kept
