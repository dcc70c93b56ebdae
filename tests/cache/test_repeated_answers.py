"""A selector whose answer follows from schedule and plan is called once per scale, with the same result."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
import torch
from attrs import field, frozen
from torch import Tensor

from scalekv_core import CacheGeometry, CachePlan, CacheView, KVCache, ScaleSchedule
from scalekv_core.contracts.strategies import TokenSelector
from scalekv_core.contracts.tables import Tables
from tests.plain import Case, FoldIntoNearest, drive, policy_of

LAYERS, EVICTING = 3, 2
BY_POSITION = frozenset({"contents_are_ignored", "layers_are_alike"})


@frozen
class Last(TokenSelector):
    """Keeps the last tokens, and counts its calls."""

    claimed: frozenset[str] = BY_POSITION
    asked: list[int] = field(factory=list, eq=False)

    @property
    def claims(self) -> frozenset[str]:
        return self.claimed

    def select(self, view: CacheView, keep: int) -> Tensor:
        self.asked.append(view.scale)
        return torch.arange(view.tokens - keep, view.tokens).expand(*view.k.shape[:2], -1).contiguous()


@frozen
class Counting(Last):
    statistics: ClassVar[tuple[str, ...]] = ("age",)

    def observe(self, view: CacheView) -> dict[str, Tensor]:
        return {"age": view.statistics["age"] + 1}


def case(*capacities: int, rows: int = 2) -> Case:
    """Three layers with equal capacities, or with their own."""
    schedule = ScaleSchedule.square(1, 2, 3, 3)
    held = np.array([[1, 1, 1], [5, 5, 5], capacities or (6, 6, 6), (0, 0, 0)])
    held[1] = np.minimum(held[1], 3)
    geometry = CacheGeometry(schedule=schedule, layers=LAYERS, heads=2, head_dim=8, rows=rows)
    return Case(CachePlan(schedule, np.repeat(held[:, :, None], 2, axis=2)), geometry)


def test_it_is_asked_once_per_scale_in_all_images() -> None:
    """Images share answers; a batch of another size is asked again. Held tokens equal those of asking every layer."""
    selector, tables = Last(), Tables()
    for _ in range(2):
        drive(case(), KVCache(case().plan, policy_of(selector), tables=tables))
    assert [1, 2] == selector.asked

    drive(case(rows=1), KVCache(case().plan, policy_of(selector), tables=tables))
    assert [1, 2, 1, 2] == selector.asked


def test_outputs_are_those_of_asking_every_layer() -> None:
    """Outputs equal those with ``check=True``, which asks every layer."""
    shared, asked = Last(), Last()
    mine = drive(case(), KVCache(case().plan, policy_of(shared)))
    theirs = drive(case(), KVCache(case().plan, policy_of(asked), check=True))

    assert LAYERS * EVICTING == len(asked.asked) > len(shared.asked)
    assert all(torch.equal(x, y) for a, b in zip(mine, theirs, strict=True) for x, y in zip(a, b, strict=True))


def test_layers_with_other_plans_are_asked_on_their_own() -> None:
    """Two layers that hold 6 tokens at the end share answers; one that holds 4 is asked on its own."""
    selector = Last()
    drive(case(6, 4, 6), KVCache(case(6, 4, 6).plan, policy_of(selector)))
    assert [1, 1, 2, 2] == sorted(selector.asked)


@pytest.mark.parametrize("claim", sorted(BY_POSITION))
def test_both_claims_are_needed(claim: str) -> None:
    selector = Last(frozenset({claim}))
    drive(case(), KVCache(case().plan, policy_of(selector)))
    assert LAYERS * EVICTING == len(selector.asked)


def test_statistics_and_folding_depend_on_contents() -> None:
    """Selectors with statistics, and selectors under folding, are called in every layer whatever they claim."""
    for policy in (policy_of(Counting()), policy_of(Last(), merger=FoldIntoNearest())):
        drive(case(), KVCache(case().plan, policy))
        assert LAYERS * EVICTING == len(policy.selector.asked)
