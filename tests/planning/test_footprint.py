"""Footprints computed by hand: bytes held after every scale, position by position, and the scratch buffer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given

from scalekv_core import CacheGeometry, CachePlan, ScaleSchedule, footprint
from scalekv_core.planning.footprint import scratch_slots
from tests.plain import Case, FoldIntoNearest, Int8PerChannel, Sums, cases, policy_of

SCHEDULE = ScaleSchedule([(1, 1), (2, 1), (2, 3), (4, 5)])  # 1, 2, 6, 20 tokens
GEOMETRY = CacheGeometry(schedule=SCHEDULE, layers=1, heads=2, head_dim=8, rows=3, dtype=torch.bfloat16)
SLOT = 2 * 8 * 2  # bytes of a key and a value


def plan_of(*capacity: int) -> CachePlan:
    return CachePlan(SCHEDULE, np.array(capacity)[:, None, None].repeat(2, axis=2))


@pytest.mark.parametrize(
    ("capacity", "slots"),
    [
        ((1, 3, 9, 0), [1 * SLOT, 3 * SLOT, 9 * SLOT, 0]),  # never cut: no positions
        ((1, 2, 5, 0), [1 * SLOT, 2 * (SLOT + 4), 5 * (SLOT + 4), 0]),
        ((1, 3, 8, 0), [1 * SLOT, 3 * SLOT, 8 * (SLOT + 4), 0]),
        ((0, 2, 8, 0), [0, 2 * SLOT, 8 * SLOT, 0]),  # the first map is gone, the rest has no gap
        ((1, 2, 0, 0), [1 * SLOT, 2 * (SLOT + 4), 0, 0]),
        ((1, 2, 8, 0), [1 * SLOT, 2 * (SLOT + 4), 8 * (SLOT + 4), 0]),  # cut once, positions from then on
        ((0, 0, 0, 0), [0, 0, 0, 0]),
    ],
)
def test_positions_are_stored_from_the_first_gap_on(capacity: tuple[int, ...], slots: list[int]) -> None:
    """While the held tokens are the latest ones, positions are counted instead of stored."""
    planned = footprint(plan_of(*capacity), policy_of(), GEOMETRY)

    assert tuple(6 * slot for slot in slots) == planned.planned
    assert max(planned.planned) == planned.most_planned
    assert 29 * 6 * SLOT == planned.unmodified


def test_every_word_beside_the_codes_is_counted() -> None:
    """Statistics count always, positions and counts from the first eviction on, ranges per group."""
    plan = plan_of(1, 2, 5, 0)
    with_all = footprint(plan, policy_of(Sums(), merger=FoldIntoNearest(), codec=Int8PerChannel()), GEOMETRY)
    ranges = 2 * 8 * 4

    assert (6 * (16 + ranges + 8), 6 * (2 * (16 + 16) + ranges), 6 * (5 * (16 + 16) + ranges), 0) == with_all.planned


@pytest.mark.parametrize(
    ("capacity", "tokens"),
    [((1, 3, 9, 0), 29), ((1, 2, 5, 0), 25), ((1, 3, 0, 0), 20), ((0, 0, 0, 0), 20)],
)
def test_scratch_has_room_for_the_largest_map_that_is_not_kept(capacity: tuple[int, ...], tokens: int) -> None:
    """Scratch has the size of the largest map that is not kept whole, always the last; all layers share it."""
    assert 2 * tokens == scratch_slots(plan_of(*capacity))
    assert 2 * tokens * SLOT * 3 == footprint(plan_of(*capacity), policy_of(), GEOMETRY).scratch


@given(cases())
def test_scratch_is_never_larger_than_one_layer_in_full(case: Case) -> None:
    """Scratch is at most the full size of one layer, whatever the plan."""
    g = case.geometry

    assert footprint(case.plan, policy_of(), g).scratch <= case.schedule.total * g.heads * g.slot_bytes * g.rows
