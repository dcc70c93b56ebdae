"""Diagonal: keeps the same places of the picture from every map, since attention follows the place of the query.

Attention between maps has diagonals: a query looks at what lies in the same place of an earlier map. They are what LiteVAR
(arXiv 2411.17178) keeps windows of, what HACK (arXiv 2504.09261) calls structural heads, and what DiagonalAttn
(arXiv 2609.19702) uses between the rows of raster-order models. This is the part of it that a cache can use.
"""

from __future__ import annotations

import torch
from attrs import frozen
from torch import Tensor

from scalekv_core import ops
from scalekv_core.contracts.policy import Policy
from scalekv_core.contracts.strategies import ScoringSelector
from scalekv_core.contracts.view import CacheView
from scalekv_core.shapes.schedule import Map, ScaleSchedule
from scalekv_policies.uniform import EvenBudget, lattice_numbers


@frozen
class Diagonal(ScoringSelector):
    """Keeps of every map the tokens at a grid of places that all maps share. Uses positions only.

    The grid is a sequence of places, spread evenly however many are taken. The first place takes one token of every map, the
    second one more, where the map has another there, and so on. So every map keeps about the same number of tokens, and they
    lie one below the other; ``uniform`` keeps the same share of every map instead.
    """

    @property
    def claims(self) -> frozenset[str]:
        return super().claims | {"contents_are_ignored", "heads_are_alike", "layers_are_alike"}

    def score(self, view: CacheView, keep: int) -> Tensor:
        """(B, H, N) int64 scores, all different."""
        return ops.at_positions(view.table(diagonal_scores, view.schedule, view.scale), view.positions)


def diagonal_scores(schedule: ScaleSchedule, scale: int, device: torch.device) -> Tensor:
    """(tokens of scales 0..scale) int64 scores, all different: by first place in the token's area, then latest map."""
    turns = [turns_under_places(sizes, device) for sizes in schedule.maps[: scale + 1]]
    maps = [torch.full_like(turn, scale - k) for k, turn in enumerate(turns)]
    return -(torch.cat(turns) * (scale + 1) + torch.cat(maps))


def turns_under_places(sizes: Map, device: torch.device) -> Tensor:
    """(tokens of a map,) int64, all different in the map: the index of the first place that lies in the token's area.

    Places follow Roberts' lattice (see :func:`scalekv_policies.uniform.spaced_order`); tokens without a place come last.

    >>> turns_under_places((1, 2, 2), torch.device("cpu")).tolist()
    [3, 2, 1, 0]
    """
    t, h, w = sizes
    places = 4 * t * h * w
    frame, row, column = (
        lattice_numbers(torch.arange(1, places + 1, device=device), axis) * size >> 32
        for axis, size in enumerate(sizes)
    )
    token = (frame * h + row) * w + column
    turns = torch.arange(places, places + t * h * w, device=device)
    return turns.scatter_reduce_(0, token, torch.arange(places, device=device), "amin")


def diagonal() -> Policy:
    """Keeps the same places of the picture from every map; the same number in every head."""
    return Policy(name="diagonal", allocator=EvenBudget(), selector=Diagonal())
