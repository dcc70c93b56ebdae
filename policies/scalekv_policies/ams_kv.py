"""AMS-KV: the first scales and the latest ones.

Xu et al., "AMS-KV: Adaptive KV Caching in Multi-Scale Visual Autoregressive Transformers", AAAI 2026, arXiv 2511.16047.
"""

from __future__ import annotations

import torch
from attrs import field, frozen
from attrs.validators import ge
from torch import Tensor

from scalekv_core.contracts.policy import Policy
from scalekv_core.contracts.strategies import ScoringSelector
from scalekv_core.contracts.view import CacheView
from scalekv_policies.uniform import EvenBudget, spaced_order


@frozen(kw_only=True)
class CondensedAndLocal(ScoringSelector):
    """Whole maps: the first ones (condensed scales), then from the latest one backwards (local scales).

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
        """(B, H, N) int64, all different: the map's turn, then the token's turn in its map."""
        scales = len(view.schedule)
        turns = [scales + self.condensed - k if k < self.condensed else k for k in range(view.scale + 1)]
        device = view.positions.device
        turn = torch.cat(
            [torch.full((view.schedule.tokens[k],), turns[k], device=device) for k in range(view.scale + 1)]
        )
        order = (turn << 32) - spaced_order(view.schedule, view.scale, device)
        return order[view.positions.long()]


def ams_kv() -> Policy:
    """The first two scales and the latest ones, the same number of tokens in every layer and head."""
    return Policy(
        name="ams-kv",
        allocator=EvenBudget(),
        selector=CondensedAndLocal(),
        paper="AMS-KV: Adaptive KV Caching in Multi-Scale Visual Autoregressive Transformers, arXiv 2511.16047",
    )
