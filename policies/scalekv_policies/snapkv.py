"""SnapKV: keeps what the last queries attend to, pooled along the sequence.

Li et al., "SnapKV: LLM Knows What You are Looking for Before Generation", NeurIPS 2024, arXiv 2404.14469.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from attrs import field, frozen
from attrs.validators import ge, in_, le
from torch import Tensor

from scalekv_core.contracts.policy import Policy
from scalekv_core.contracts.strategies import ScoringSelector
from scalekv_core.contracts.view import CacheView
from scalekv_policies.uniform import EvenBudget
from scalekv_policies.validators import is_odd


@frozen(kw_only=True)
class SnapSelector(ScoringSelector):
    """Keeps the window, and of the tokens before it those that its queries attend to, pooled over neighbours.

    The observation window W is the end of the current map. Section 4 of the paper::

        s_j = sum over i in W of softmax_j(q_i k_j / sqrt(d)),    kept: W and the best of pool(s)

    In the paper W is the end of the prompt and sees itself causally; a map has no such order, so W sees the whole map.
    The paper's W is small beside the capacity and always kept. Where it is not, the end of W is certain up to a share
    ``protect`` of the capacity, and W's other tokens compete with their own, unpooled scores. Pooling is the paper's,
    along the flattened sequence, so it reaches across rows and maps; an average is over the neighbours that exist.

    Attributes:
        window: queries that vote, at most; all of a smaller map.
        kernel: width of the pooling, odd; 1 for none.
        pooling: ``max`` or ``avg``.
        protect: the most of the capacity that the window takes without competing, in [0, 1].
    """

    window: int = field(default=32, validator=ge(1))
    kernel: int = field(default=5, validator=[ge(1), is_odd])
    pooling: Literal["max", "avg"] = field(default="max", validator=in_(("max", "avg")))
    protect: float = field(default=0.5, validator=[ge(0.0), le(1.0)])

    @property
    def claims(self) -> frozenset[str]:
        return super().claims | {"follows_attention", "heads_are_alike", "layers_are_alike", "older_maps_are_ignored"}

    def score(self, view: CacheView, keep: int) -> Tensor:
        window = min(self.window, view.current)
        looked_at = self.window_scores(view, window)
        before = view.tokens - window
        scores = torch.cat([self._pooled(looked_at[:, :, :before]), looked_at[:, :, before:]], dim=2)
        certain = min(window, int(self.protect * keep))
        scores[:, :, view.tokens - certain :] = torch.inf
        return scores

    def window_scores(self, view: CacheView, window: int) -> Tensor:
        """(B, H, N) float32 scores of tokens by the last ``window`` queries of the map, before pooling; read-only."""
        return view.attention_mass(view.table(torch.arange, view.current - window, view.current))

    def _pooled(self, scores: Tensor) -> Tensor:
        if self.kernel == 1 or scores.shape[2] == 0:
            return scores
        if self.pooling == "max":
            return F.max_pool1d(scores, self.kernel, stride=1, padding=self.kernel // 2)
        return F.avg_pool1d(scores, self.kernel, stride=1, padding=self.kernel // 2, count_include_pad=False)


def snapkv() -> Policy:
    """Keeps the tokens that the last queries of each map attend to; the same number in every head."""
    return Policy(
        name="snapkv",
        allocator=EvenBudget(),
        selector=SnapSelector(),
        paper="SnapKV: LLM Knows What You are Looking for Before Generation, arXiv 2404.14469",
    )
