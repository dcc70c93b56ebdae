"""CachePlan: held tokens follow from capacity and schedule; impossible plans are refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scalekv_core import CacheGeometry, CachePlan, ContractError, ScaleSchedule
from scalekv_core.contracts.plan import everything

SCHEDULE = ScaleSchedule.square(1, 2, 3)  # 1, 4 and 9 tokens
GEOMETRY = CacheGeometry(schedule=SCHEDULE, layers=2, heads=3, head_dim=4)


def plan_of(*rows: object, quota: object = None) -> CachePlan:
    """A plan of one layer and one head."""
    capacity = np.array(rows)[:, None, None]
    return CachePlan(SCHEDULE, capacity, None if quota is None else np.array(quota)[:, None, None])


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=6), st.data())
def test_held_is_a_running_minimum(maps: list[tuple[int, int]], data: st.DataObject) -> None:
    """A head holds the minimum of its capacity and what it held before plus the new map."""
    schedule = ScaleSchedule(maps)
    capacities = data.draw(st.lists(st.integers(0, 20), min_size=len(maps) - 1, max_size=len(maps) - 1))
    plan = CachePlan(schedule, np.array([*capacities, 0])[:, None, None])

    expected, before = [], 0
    for capacity, new in zip([*capacities, 0], schedule.tokens, strict=True):
        before = min(capacity, before + new)
        expected.append(before)

    assert expected == plan.held[:, 0, 0].tolist()
    assert expected == plan.slots().tolist()
    assert plan.drops == any(h < k for h, k in zip(expected, schedule.keepable(), strict=True))


def test_a_capacity_cannot_bring_tokens_back() -> None:
    """After a capacity of 0 a head can hold the next map only."""
    schedule = ScaleSchedule.square(1, 2, 3, 4)
    plan = CachePlan(schedule, np.array([1, 0, 99, 0])[:, None, None])

    assert [1, 0, 9, 0] == plan.held[:, 0, 0].tolist()
    assert plan.drops


def test_everything_drops_nothing() -> None:
    """The plan of everything holds all that a later scale reads, in one group per layer."""
    plan = everything(GEOMETRY)

    assert [1 * 6, 5 * 6, 0] == plan.slots().tolist()
    assert not plan.drops
    assert [[(0, 1, 2)]] * 2 == [[group.heads for group in groups] for groups in plan.groups]
    plan.check_fits(GEOMETRY)


def test_a_quota_says_what_is_held() -> None:
    """The held tokens are the sum of the quotas, also below the capacity."""
    plan = plan_of(1, 5, 0, quota=[[1, 0, 0], [0, 3, 0], [0, 0, 0]])

    assert [1, 3, 0] == plan.held[:, 0, 0].tolist()
    assert ((1, 0, 0), (0, 3, 0), (0, 0, 0)) == plan.groups[0][0].quota


def test_heads_that_hold_the_same_share_a_group() -> None:
    """Equal capacity trajectories, or equal effects of different ones; every head is in exactly one group."""
    capacity = np.zeros((3, 2, 3), dtype=np.int64)
    capacity[0] = 1
    capacity[1] = [[5, 2, 99], [3, 3, 3]]  # 99 and 5 both hold 5
    plan = CachePlan(SCHEDULE, capacity)

    assert [[(0, 2), (1,)], [(0, 1, 2)]] == [[group.heads for group in groups] for groups in plan.groups]
    assert [[(1, 5, 0), (1, 2, 0)], [(1, 3, 0)]] == [[group.held for group in groups] for groups in plan.groups]


def test_quotas_part_heads_that_hold_equally_much() -> None:
    """Three tokens of the first map and three of the second are not the same group."""
    capacity = np.zeros((3, 1, 2), dtype=np.int64)
    capacity[:2] = 1
    quota = np.zeros((3, 1, 2, 3), dtype=np.int64)
    quota[0, 0, :, 0] = 1
    quota[1, 0, 0, 0] = quota[1, 0, 1, 1] = 1

    assert [(0,), (1,)] == [group.heads for group in CachePlan(SCHEDULE, capacity, quota).groups[0]]


@pytest.mark.parametrize(
    ("capacity", "message"),
    [
        (np.zeros((3, 1, 1)), "counts tokens in integers; got float64"),
        (np.zeros((3, 1, 1), dtype=bool), "counts tokens in integers; got bool"),
        (np.zeros((3, 2), dtype=int), r"\[K=3, L, H\]; got shape \(3, 2\)"),
        (np.zeros((2, 1, 1), dtype=int), r"\[K=3, L, H\]; got shape \(2, 1, 1\)"),
        (np.zeros((3, 0, 1), dtype=int), r"\[K=3, L, H\]; got shape \(3, 0, 1\)"),
        (np.array([1, -1, 0])[:, None, None], "counts tokens; got -1"),
        (np.array([1, 1, 1])[:, None, None], "after the last scale must be 0"),
    ],
)
def test_impossible_capacities_are_refused(capacity: np.ndarray, message: str) -> None:
    """Wrong shapes, negative numbers, and a last row above 0 are refused."""
    with pytest.raises(ContractError, match=message):
        CachePlan(SCHEDULE, capacity)


def test_a_text_prefix_cannot_be_evicted() -> None:
    """A capacity below its tokens is refused for as long as a later map reads it."""
    schedule = ScaleSchedule([(1, 5), (1, 1), (2, 2)], prefix=True)
    with pytest.raises(ContractError, match="after scale 1 is 4; the text prefix takes 5 and is kept"):
        CachePlan(schedule, np.array([5, 4, 0])[:, None, None])


@pytest.mark.parametrize(
    ("quota", "message"),
    [
        ([[1, 0], [0, 3], [0, 0]], r"quota is \[K, L, H, K\]"),
        ([[0, 1, 0], [0, 0, 0], [0, 0, 0]], "after scale 0 keeps tokens"),
        ([[1, 0, 0], [0, 5, 0], [0, 0, 0]], "after scale 1 keeps tokens"),
        ([[0, 0, 0], [1, 4, 0], [0, 0, 0]], "after scale 1 keeps tokens"),
        ([[1, 0, 0], [-1, 4, 0], [0, 0, 0]], "after scale 1 keeps tokens"),
        ([[1, 0, 0], [1, 4, 0], [0, 0, 0]], "more than the capacity"),
        ([[1, 0, 0], [1, 2, 0], [0, 0, 1]], "more than the capacity"),
    ],
    ids=str,
)
def test_impossible_quotas_are_refused(quota: list[list[int]], message: str) -> None:
    """Quotas of later maps, of more tokens than the map had, of evicted tokens, below 0 or above the capacity are
    refused.
    """
    with pytest.raises(ContractError, match=message):
        plan_of(1, 4, 0, quota=quota)


def test_a_plan_fits_its_own_model_only() -> None:
    """Other layers, heads or maps are refused, also maps with equally many tokens."""
    same_tokens = ScaleSchedule([(1, 1), (1, 4), (3, 3)])
    for other in (
        CacheGeometry(schedule=SCHEDULE, layers=3, heads=3, head_dim=4),
        CacheGeometry(schedule=SCHEDULE, layers=2, heads=2, head_dim=4),
        CacheGeometry(schedule=same_tokens, layers=2, heads=3, head_dim=4),
    ):
        with pytest.raises(ContractError, match="the plan is for"):
            everything(GEOMETRY).check_fits(other)


def test_another_schedule_is_named() -> None:
    """If only the maps differ, the error shows the maps."""
    other = CacheGeometry(schedule=ScaleSchedule([(1, 1), (1, 4), (3, 3)]), layers=2, heads=3, head_dim=4)

    with pytest.raises(ContractError, match=r"maps 1x1 2x2 3x3; the model has \(3, 2, 3\) and maps 1x1 1x4 3x3"):
        everything(GEOMETRY).check_fits(other)


def test_a_plan_does_not_change_with_the_array_it_was_made_of() -> None:
    """The array is copied."""
    capacity = np.array([1, 4, 0])[:, None, None]
    plan = CachePlan(SCHEDULE, capacity)
    capacity[:] = 0

    assert [1, 4, 0] == plan.held[:, 0, 0].tolist()


@pytest.mark.parametrize("dtype", [np.int8, np.uint16, np.int32])
def test_any_integer_will_do(dtype: type) -> None:
    """Any integer dtype is accepted."""
    assert np.int64 == CachePlan(SCHEDULE, np.array([1, 4, 0], dtype=dtype)[:, None, None]).capacity.dtype


def test_one_map_needs_no_cache() -> None:
    """An image of one map stores nothing."""
    geometry = CacheGeometry(schedule=ScaleSchedule([(3, 5)]), layers=1, heads=1, head_dim=2, dtype=torch.float16)

    assert [0] == everything(geometry).slots().tolist()
    assert not everything(geometry).drops
