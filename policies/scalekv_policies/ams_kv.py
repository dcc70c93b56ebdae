"""AMS-KV: keeps the first scales and the latest ones.

Xu et al., "AMS-KV: Adaptive KV Caching in Multi-Scale Visual Autoregressive Transformers", AAAI 2026, arXiv 2511.16047.
"""

from __future__ import annotations

import torch
from attrs import field, frozen
from attrs.validators import ge
from torch import Tensor

from scalekv_core import ops
from scalekv_core.contracts.policy import Policy
from scalekv_core.contracts.strategies import ScoringSelector
from scalekv_core.contracts.view import CacheView
from scalekv_core.shapes.schedule import ScaleSchedule
from scalekv_policies.uniform import EvenBudget, spaced_order


@frozen(kw_only=True)
class CondensedAndLocal(ScoringSelector):
    """Keeps whole maps: the first ones (condensed scales), then from the latest one backwards (local scales).

    The map that the capacity ends in is kept in part, evenly spaced. The paper counts in scales and not in tokens; it
    also gives more to layers whose keys and values change much between scales, which is not done here.

    Attributes:
        condensed: first scales that come before all others; the paper's 2.
    """

    condensed: int = field(default=2, validator=ge(0))

    @property
    def claims(self) -> frozenset[str]:
        return super().claims | {"contents_are_ignored", "heads_are_alike", "layers_are_alike"}

    def score(self, view: CacheView, keep: int) -> Tensor:
        """(B, H, N) int64 scores, all different."""
        scores = view.table(condensed_and_local_scores, view.schedule, view.scale, self.condensed)
        return ops.at_positions(scores, view.positions)


def condensed_and_local_scores(schedule: ScaleSchedule, scale: int, condensed: int, device: torch.device) -> Tensor:
    """(tokens of scales 0..scale) int64 scores, all different: by the map's turn, then by the token's turn in it."""
    turns = [len(schedule) + condensed - k if k < condensed else k for k in range(scale + 1)]
    turn = torch.cat([torch.full((schedule.tokens[k],), turns[k], device=device) for k in range(scale + 1)])
    return (turn << 32) - spaced_order(schedule, scale, device)


def ams_kv() -> Policy:
    """Keeps the first two maps and the latest ones; the same number of tokens in every head."""
    return Policy(
        name="ams-kv",
        allocator=EvenBudget(),
        selector=CondensedAndLocal(),
        paper="AMS-KV: Adaptive KV Caching in Multi-Scale Visual Autoregressive Transformers, arXiv 2511.16047",
    )
