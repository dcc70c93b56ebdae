"""StreamingLLM: keeps the first tokens (attention sinks) and the most recent ones.

Xiao et al., "Efficient Streaming Language Models with Attention Sinks", ICLR 2024, arXiv 2309.17453.
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
from scalekv_policies.uniform import EvenBudget


@frozen(kw_only=True)
class SinksAndRecent(ScoringSelector):
    """Keeps the first ``sinks`` tokens of the sequence, and the last ones. Uses positions only.

    The paper numbers positions anew inside of the cache; a map's tokens are rotated by their place in the picture, so
    here they keep it. Sinks take at most half of a small capacity, the first ones first.

    Attributes:
        sinks: how many; the paper's 4 of a text, here 5: the maps of 1 x 1 and 2 x 2.
    """

    sinks: int = field(default=5, validator=ge(0))

    @property
    def claims(self) -> frozenset[str]:
        return super().claims | {"contents_are_ignored", "heads_are_alike", "layers_are_alike"}

    def score(self, view: CacheView, keep: int) -> Tensor:
        """(B, H, N) int64 scores, all different."""
        sinks = min(self.sinks, (keep + 1) // 2)
        return ops.at_positions(view.table(sinks_and_recent_scores, view.schedule.total, sinks), view.positions)


def sinks_and_recent_scores(tokens: int, sinks: int, device: torch.device) -> Tensor:
    """(tokens,) int64 scores, all different: the first ``sinks`` are highest, in their order; then the last tokens."""
    positions = torch.arange(tokens, device=device)
    return torch.where(positions < sinks, tokens + sinks - positions, positions)


def streaming() -> Policy:
    """Keeps the first tokens and the latest ones; the same number in every head."""
    return Policy(
        name="streaming",
        allocator=EvenBudget(),
        selector=SinksAndRecent(),
        paper="Efficient Streaming Language Models with Attention Sinks, arXiv 2309.17453",
    )
