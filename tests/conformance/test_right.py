"""Correct strategies of unusual kinds: the kit finds nothing wrong with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import numpy as np
import pytest
import torch
from attrs import frozen
from torch import Tensor

from scalekv_core import (
    BudgetAllocator,
    CacheCodec,
    CachePlan,
    CacheView,
    Encoded,
    Policy,
    ScoringSelector,
    TokenMerger,
    TokenSelector,
    ops,
)
from scalekv_core.testing import machine_for, parametrize_with_checks
from scalekv_core.testing.kinds import check_named, kind_of
from scalekv_core.testing.running import try_check
from scalekv_core.testing.toy import VIDEO_CARD, Even, Latest
from scalekv_core.testing.trying import Subject
from tests.wrong_strategies.selectors import ByPlace, ByValue
from tests.wrong_strategies.storage import Int8, IntoNearest


@frozen
class Ends(TokenSelector):
    """Keeps the first and the last token, so at least two, without scores."""

    def least(self, schedule, scale):
        return 2

    def select(self, view: CacheView, keep: int):
        first = ops.all_tokens(view.k, 0, 1)
        return torch.cat([first, ops.all_tokens(view.k, view.tokens - keep + 1, view.tokens)], dim=2)


@frozen
class Sinks(TokenSelector):
    """The first four tokens and the latest; under quotas it would be asked for fewer of a map."""

    def least(self, schedule, scale):
        return 5

    def select(self, view: CacheView, keep: int) -> Tensor:
        latest = ops.all_tokens(view.k, view.tokens - keep + 4, view.tokens)
        return torch.cat([ops.all_tokens(view.k, 0, 4), latest], dim=2)


@frozen
class HeadByHead(BudgetAllocator):
    """Even heads get what odd heads do not."""

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


@frozen
class NextMap(ScoringSelector):
    """Keeps tokens of the maps whose size is nearest to that of the next one; nothing is selected after the last map."""

    def score(self, view: CacheView, keep: int) -> Tensor:
        following = view.schedule.tokens[view.scale + 1]
        near = [-abs(following - n) for n in view.schedule.tokens for _ in range(n)]
        return torch.tensor(near, dtype=torch.float32, device=view.k.device)[view.positions.long()]


@frozen
class LogOfChance(ScoringSelector):
    """A statistic that is never above zero."""

    statistics: ClassVar[tuple[str, ...]] = ("chance",)

    def observe(self, view: CacheView) -> dict[str, Tensor]:
        share = (view.attention_mass() / view.current).clamp(0, 0.999)
        return {"chance": view.statistics["chance"] + torch.log1p(-share)}

    def score(self, view: CacheView, keep: int) -> Tensor:
        return (-torch.expm1(view.statistics["chance"])).sqrt()


@frozen
class OwnLots(ScoringSelector):
    """Chooses at random by a generator of its own on the view's device."""

    seed: int = 1

    def score(self, view: CacheView, keep: int) -> Tensor:
        generator = torch.Generator(device=view.k.device).manual_seed(self.seed + view.layer)
        lots = torch.rand(view.schedule.total, generator=generator, device=view.k.device)
        return lots[view.positions.long()]


@frozen
class ByDistance(TokenMerger):
    """Folds into the kept token with the nearest key; rounding differs between batches."""

    def assign(self, view: CacheView, kept: Tensor) -> Tensor:
        keys = view.k.float()
        target = torch.cdist(keys, ops.gather_tokens(keys, kept)).argmin(dim=3)
        return target.scatter(2, kept, ops.all_tokens(kept, 0, kept.shape[2]))


@frozen
class ChannelsFirst(CacheCodec):
    """Stores (B, H, D, N) and returns it transposed."""

    def encode(self, x: Tensor, kind: str, *, like: Encoded | None = None) -> Encoded:
        stored = x.transpose(2, 3).clone(memory_format=torch.contiguous_format)
        return Encoded({"x": stored.transpose(2, 3)})

    def decode(self, stored: Encoded, kind: str, out: Tensor) -> None:
        out.copy_(stored.tokens["x"])

    def nbytes(
        self, kind: str, *, rows: int, heads: int, tokens: int, maps: int, head_dim: int, dtype: torch.dtype
    ) -> int:
        return rows * heads * tokens * head_dim * dtype.itemsize


def folding() -> Policy:
    """A policy with budgets per head, folding and eight bits."""
    return Policy(name="all", allocator=HeadByHead(), selector=ByValue(), merger=IntoNearest(), codec=Int8())


RIGHT = {
    "ends": Ends,
    "sinks": Sinks,
    "by-value": ByValue,
    "by-place": ByPlace,
    "into-nearest": IntoNearest,
    "int8": Int8,
    "head-by-head": HeadByHead,
    "next-map": NextMap,
    "log-of-chance": LogOfChance,
    "own-lots": OwnLots,
    "by-distance": ByDistance,
    "channels-first": ChannelsFirst,
    "folding": folding,
    "int8-evicting": lambda: Policy(name="int8", allocator=Even(), selector=Latest(), codec=Int8()),
    "folding-dense": lambda: Policy(name="fold", allocator=HeadByHead(), selector=ByPlace(), merger=IntoNearest()),
}


@pytest.mark.thorough
@parametrize_with_checks(RIGHT)
def test_what_is_right_passes(check: Callable[[], None]) -> None:
    """No check asks for more than the contract."""
    check()


ONCE_ACCUSED = {
    "sinks": "follows_quotas",
    "next-map": "fills_its_capacity",
    "log-of-chance": "scores_are_numbers",
    "own-lots": "stays_on_the_device",
    "by-distance": "rows_are_apart",
    "channels-first": "repeats_itself",
}


@pytest.mark.parametrize(("name", "check"), ONCE_ACCUSED.items())
def test_what_was_once_accused_passes(name: str, check: str) -> None:
    """Former false alarms: views after the last map, made-up statistics, generators on meta, rounding, unusual strides."""
    kind = kind_of(RIGHT[name]())
    outcome = try_check(check_named(kind, check), Subject(kind, name, RIGHT[name]))

    assert "passed" == outcome.state, outcome.reason


TestFoldingMachine = machine_for(folding).TestCase


@parametrize_with_checks({"toy-video": lambda: VIDEO_CARD})
def test_a_model_of_clips_passes_all_checks(check: Callable[[], None]) -> None:
    """With text in front, grouped heads and maps of several frames."""
    check()
