"""Strategies that are right, of kinds that the shelves have few of: the kit finds nothing wrong with them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from attrs import frozen

from scalekv_core import BudgetAllocator, CachePlan, CacheView, Policy, TokenSelector, ops
from scalekv_core.testing import machine_for, parametrize_with_checks
from scalekv_core.testing.toy import Even, Latest
from tests.wrong_strategies.selectors import ByPlace, ByValue
from tests.wrong_strategies.storage import Int8, IntoNearest


@frozen
class Ends(TokenSelector):
    """The first and the last token: no scores, at least two."""

    def least(self, schedule, scale):
        return 2

    def select(self, view: CacheView, keep: int):
        first = ops.all_tokens(view.k, 0, 1)
        return torch.cat([first, ops.all_tokens(view.k, view.tokens - keep + 1, view.tokens)], dim=2)


@frozen
class HeadByHead(BudgetAllocator):
    """Even heads get everything that the odd ones give up."""

    def allocate(self, geometry, roles, slots):
        plan = Even().allocate(geometry, roles, slots)
        capacity = plan.capacity.copy()
        pairs = geometry.heads // 2
        for k, most in enumerate(geometry.schedule.keepable()):
            before = capacity[k - 1, :, 0 : 2 * pairs : 2] if k else 0
            there = np.minimum(most, before + geometry.schedule.tokens[k])
            moved = np.minimum(capacity[k, :, 1 : 2 * pairs : 2] // 2, there - capacity[k, :, 0 : 2 * pairs : 2])
            moved = np.maximum(moved, 0)
            capacity[k, :, 0 : 2 * pairs : 2] += moved
            capacity[k, :, 1 : 2 * pairs : 2] -= moved
        return CachePlan(geometry.schedule, capacity)


def folding() -> Policy:
    """Per-head budgets, folding, eight bits."""
    return Policy(name="all", allocator=HeadByHead(), selector=ByValue(), merger=IntoNearest(), codec=Int8())


RIGHT = {
    "ends": Ends,
    "by-value": ByValue,
    "by-place": ByPlace,
    "into-nearest": IntoNearest,
    "int8": Int8,
    "head-by-head": HeadByHead,
    "folding": folding,
    "int8-evicting": lambda: Policy(name="int8", allocator=Even(), selector=Latest(), codec=Int8()),
    "folding-dense": lambda: Policy(name="fold", allocator=HeadByHead(), selector=ByPlace(), merger=IntoNearest()),
}


@parametrize_with_checks(RIGHT)
def test_what_is_right_is_let_pass(check: Callable[[], None]) -> None:
    """No promise asks for more than it says."""
    check()


TestFoldingMachine = machine_for(folding).TestCase
