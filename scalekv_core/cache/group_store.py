"""What each group of heads holds between scales: codes of keys and values, positions, counts and statistics."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count

import torch
from attrs import define, field
from torch import Tensor

from scalekv_core.cache.key_values import Stored
from scalekv_core.contracts.plan import CachePlan, HeadGroup
from scalekv_core.contracts.steps import Step


@define(eq=False)
class GroupStore:
    """What one group of heads holds.

    Attributes:
        group: which heads, and how much they may hold after each scale.
        turn: which of all groups attends when, from 0.
        steps: what becomes of its tokens at each scale; None for a plain schedule.
        device: where it attended last, under a codec that stores elsewhere.
        stored: keys and values; None if there are none.
        positions: (B, Hg, N) int32; None as long as the tokens are the latest without a gap.
        counts: (B, Hg, N) float32; None as long as nothing was folded: then all are 1.
        statistics: {name: (B, Hg, N) float32} of the selector.
    """

    group: HeadGroup
    turn: int
    steps: tuple[Step, ...] | None = None
    device: torch.device | None = None
    stored: Stored | None = None
    positions: Tensor | None = None
    counts: Tensor | None = None
    statistics: dict[str, Tensor] = field(factory=dict)
    _index: Tensor | None = None

    @property
    def length(self) -> int:
        """N, tokens held by each head."""
        return 0 if self.stored is None else self.stored[0].length

    def tensors(self) -> Iterator[Tensor]:
        """Every tensor that is held."""
        for encoded in self.stored or ():
            yield from encoded.tensors()
        yield from (x for x in (self.positions, self.counts, *self.statistics.values()) if x is not None)

    def clear(self) -> None:
        """Drops everything."""
        self.stored = self.positions = self.counts = None
        self.statistics = {}

    def head_index(self, device: torch.device) -> Tensor:
        """(Hg,) the group's heads, on this device."""
        if self._index is None or self._index.device != device:
            self._index = torch.tensor(self.group.heads, device=device)
        return self._index


@define(eq=False)
class LayerStore:
    """The groups of one layer, and the scale that its next attend belongs to."""

    groups: Sequence[GroupStore]
    scale: int = 0

    def clear(self) -> None:
        """Drops everything and starts at the first scale."""
        self.scale = 0
        for group in self.groups:
            group.clear()


def empty_stores(plan: CachePlan) -> list[LayerStore]:
    """A store for each layer of the plan, in the order in which layers attend."""
    turns, schedule = count(), plan.schedule
    return [
        LayerStore([GroupStore(group, next(turns), group.steps(schedule)) for group in groups])
        for groups in plan.groups
    ]
