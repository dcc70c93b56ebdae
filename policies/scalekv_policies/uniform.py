"""Baselines that give every layer and head the same and do not use attention."""

from __future__ import annotations

from typing import Literal, TypeVar

import numpy as np
import torch
from attrs import field, frozen
from attrs.validators import in_
from torch import Tensor

from scalekv_core import ops
from scalekv_core.contracts.plan import CachePlan
from scalekv_core.contracts.policy import Policy
from scalekv_core.contracts.roles import LayerRoles
from scalekv_core.contracts.strategies import BudgetAllocator, ScoringSelector
from scalekv_core.contracts.view import CacheView
from scalekv_core.shapes.geometry import CacheGeometry
from scalekv_core.shapes.schedule import ScaleSchedule
from scalekv_policies.shares import refuse_less_than_one_each

_32_BITS = 0xFFFFFFFF
_ROW, _COLUMN = 0xC13FA9A9, 0x91E10DA6  # 2^32 / p and 2^32 / p^2, p the plastic number
_FRAME = 0x9E3779B9  # 2^32 / the golden number
_Number = TypeVar("_Number", int, Tensor)


@frozen
class EvenBudget(BudgetAllocator):
    """Gives every head the same capacity at every scale: floor(slots / (layers x heads)) tokens.

    Raises:
        BudgetError: that is less than one token.
    """

    def allocate(self, geometry: CacheGeometry, roles: LayerRoles, slots: int) -> CachePlan:
        refuse_less_than_one_each(geometry, slots)
        each = slots // geometry.slots_per_token
        capacity = np.minimum(np.asarray(geometry.schedule.keepable())[:, None, None], each)
        return CachePlan(geometry.schedule, np.broadcast_to(capacity, (len(capacity), geometry.layers, geometry.heads)))


@frozen(kw_only=True)
class UniformSelector(ScoringSelector):
    """Keeps tokens by position alone; the same in every row.

    Each choice is a fixed order of all tokens of the schedule, of which the first ones are kept. So a larger ``keep`` contains
    a smaller one, and eviction scale by scale keeps the same tokens as one eviction at the end.

    Attributes:
        pick: ``spaced`` spreads the tokens evenly over every map, each map in proportion to its tokens; every map
            keeps its first token if the capacity allows it. ``recent`` takes the last tokens. ``random`` takes pseudo-random
            ones per layer and head, by a hash instead of a generator.
        seed: of ``random``.
    """

    pick: Literal["spaced", "recent", "random"] = field(default="spaced", validator=in_(("spaced", "recent", "random")))
    seed: int = 0

    @property
    def claims(self) -> frozenset[str]:
        alike = set() if self.pick == "random" else {"heads_are_alike", "layers_are_alike"}
        return super().claims | alike | {"contents_are_ignored"}

    def score(self, view: CacheView, keep: int) -> Tensor:
        """(B, H, N) int64 scores, all different."""
        if self.pick == "recent":
            return view.positions.long()
        if self.pick == "random":
            return mixed(view.positions.long() ^ view.table(salts, self.seed, view.layer, view.heads))
        return ops.at_positions(view.table(spaced_scores, view.schedule, view.scale), view.positions)


def salts(seed: int, layer: int, heads: tuple[int, ...], device: torch.device) -> Tensor:
    """(1, H, 1) int64 seeds, one for each head of a layer."""
    start = mixed(mixed(seed & _32_BITS) ^ (layer + 1))
    return torch.tensor([mixed(start ^ (head + 1)) for head in heads], device=device).view(1, -1, 1)


def spaced_scores(schedule: ScaleSchedule, scale: int, device: torch.device) -> Tensor:
    """(tokens of scales 0..scale) int64 scores, all different: higher for tokens that cover their maps evenly."""
    order = spaced_order(schedule, scale, device)
    return -((order << 24) + torch.arange(len(order), device=device))


def spaced_order(schedule: ScaleSchedule, scale: int, device: torch.device) -> Tensor:
    """(tokens of scales 0..scale) int64 below 2^32: the tokens with the lowest numbers cover a map evenly.

    The token in row r and column c has frac(r / p + c / p^2), p the plastic number (p^3 = p + 1): the two-dimensional
    low-discrepancy lattice of Roberts ("The unreasonable effectiveness of quasirandom sequences", 2018). The tokens
    below a threshold t are a quasi-lattice that holds a share t of every map.
    """
    orders = []
    for t, h, w in schedule.maps[: scale + 1]:
        index = torch.arange(t * h * w, device=device)
        frame, row, column = index // (h * w), index // w % h, index % w
        orders.append((frame * _FRAME + row * _ROW + column * _COLUMN) & _32_BITS)
    return torch.cat(orders)


def lattice_numbers(index: Tensor, axis: int) -> Tensor:
    """int64 below 2^32: the coordinates of lattice points ``index`` along frames, rows or columns (axis 0, 1, 2)."""
    return index * (_FRAME, _ROW, _COLUMN)[axis] & _32_BITS


def mixed(x: _Number) -> _Number:
    """A one-to-one hash of a 32-bit number: each bit of x changes about half of the bits."""
    x = ((x >> 16) ^ x) * 0x45D9F3B & _32_BITS
    x = ((x >> 16) ^ x) * 0x45D9F3B & _32_BITS
    return (x >> 16) ^ x


def uniform() -> Policy:
    """Keeps tokens evenly spaced over the maps; the same number in every head."""
    return Policy(name="uniform", allocator=EvenBudget(), selector=UniformSelector())


def sliding() -> Policy:
    """Keeps the latest tokens; the same number in every head."""
    return Policy(name="sliding", allocator=EvenBudget(), selector=UniformSelector(pick="recent"))


def random() -> Policy:
    """Keeps random tokens, different ones in every layer and head."""
    return Policy(name="random", allocator=EvenBudget(), selector=UniformSelector(pick="random"))
