"""The kit's state machine with plans that no allocator of ours makes: any capacity and quota for every head and scale.

The machine compares the cache with lists of positions, interrupts and closes it, and changes batch and schedule. Added
here: attention is compared with the formula, and a layer must refuse a second map at one scale.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from attrs import frozen
from hypothesis.stateful import precondition, rule
from numpy.typing import NDArray
from torch import Tensor

from scalekv_core import (
    BudgetAllocator,
    CacheGeometry,
    CachePlan,
    CacheView,
    LayerRoles,
    Policy,
    ScaleSchedule,
    SessionError,
)
from scalekv_core.testing.machine import CacheMachine
from scalekv_core.testing.strategies import image_cases
from tests.plain import Sums


@frozen
class AnyPlan(BudgetAllocator):
    """Capacities at random within the budget; heads share one of three random trajectories. With or without quotas."""

    quotas: bool = False

    def allocate(self, geometry: CacheGeometry, roles: LayerRoles, slots: int) -> CachePlan:
        schedule, random = geometry.schedule, np.random.default_rng(slots)
        which = random.integers(3, size=(geometry.layers, geometry.heads))
        tracks = np.array([trajectory(schedule, random) for _ in range(3)])  # [3, K, K]: kept of every source scale
        quota = tracks[which].transpose(2, 0, 1, 3)
        total = quota.sum(axis=(1, 2, 3), keepdims=True)
        quota = quota * np.minimum(slots, total) // np.maximum(1, total)
        return CachePlan(schedule, quota.sum(axis=-1), quota if self.quotas else None)


def trajectory(schedule: ScaleSchedule, random: np.random.Generator) -> NDArray[np.int64]:
    """[K, K] how many tokens of every source scale are kept after every scale: never more than were there."""
    kept = np.zeros((len(schedule), len(schedule)), dtype=np.int64)
    for scale in range(len(schedule) - 1):
        there = kept[scale - 1] if scale else kept[-1]
        there = np.where(np.arange(len(schedule)) == scale, schedule.tokens[scale], there)
        kept[scale] = random.integers(there + 1)
    return kept


class AnyTokens(Sums):
    """A selector with statistics that accepts a capacity of 0."""

    def least(self, schedule: ScaleSchedule, scale: int) -> int:
        return 0


class AnyPlanMachine(CacheMachine):
    """Under any plan; every output of attention is compared."""

    policy = Policy(name="any-plan", allocator=AnyPlan(), selector=AnyTokens())
    cases = image_cases()

    def observe(self, view: CacheView, kept: Tensor | None) -> None:
        super().observe(view, kept)
        assert self.image is not None
        self.expected[view.heads] = self.image.plain_attention(view)

    def forget(self) -> None:
        super().forget()
        self.expected: dict[tuple[int, ...], Tensor] = {}

    def check_output(self, out: Tensor) -> None:
        """Every head's output is attention over what its view held. Huge logits are left out, since rounding decides
        them.
        """
        tolerance = {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 5e-3}[out.dtype]
        for heads, expected in self.expected.items() if self.case.content != "huge" else ():
            torch.testing.assert_close(out[:, list(heads)].double(), expected, rtol=tolerance, atol=tolerance)
        assert set(range(out.shape[1])) == {head for heads in self.expected for head in heads}
        self.expected = {}

    @precondition(lambda self: self.open and self.layer > 0)
    @rule()
    def give_a_layer_its_map_again(self) -> None:
        """A second map for a layer is refused and changes nothing, unless the next map has the same size."""
        assert self.image is not None
        tokens = self.plan.schedule.tokens
        if tokens[self.scale] in tokens[self.scale + 1 : self.scale + 2]:
            return
        before = self.cache.resident_bytes()
        with pytest.raises(SessionError):
            self.image.attend(self.cache, self.scale, self.layer - 1)
        assert before == self.cache.resident_bytes()


class QuotaMachine(AnyPlanMachine):
    """Under any plan with a quota for every source scale."""

    policy = Policy(name="any-quota", allocator=AnyPlan(quotas=True), selector=AnyTokens())


TestAnyPlan = AnyPlanMachine.TestCase
TestQuotas = QuotaMachine.TestCase
