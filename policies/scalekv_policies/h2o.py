"""H2O: the tokens that got most attention so far, and the most recent ones.

Zhang et al., "H2O: Heavy-Hitter Oracle for Efficient Generative Inference of Large Language Models", NeurIPS 2023,
arXiv 2306.14048.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from attrs import field, frozen
from attrs.validators import ge, lt
from torch import Tensor

from scalekv_core.contracts.policy import Policy
from scalekv_core.contracts.strategies import ScoringSelector
from scalekv_core.contracts.view import CacheView
from scalekv_policies.uniform import EvenBudget


@frozen(kw_only=True)
class HeavyHitters(ScoringSelector):
    """Keeps the most recent tokens, and of the others those with the largest attention mass over all queries so far.

    After scale k the score of token j is the sum of the softmax weights that it got (section 4 of the paper)::

        s_j(k) = s_j(k-1) + sum over all queries i of map k of alpha_ij,      s_j = 0 before j is seen

    The paper's sum runs over single queries of a causal model; here a whole map is one step, and its queries see one
    another. As in the paper a token that has been there for longer has had more queries to collect mass from, and a
    token that was dropped is gone. Costs a second pass of attention weights over every map.

    Attributes:
        recent: share of the capacity for the last tokens, in [0, 1); the paper halves it.
    """

    statistics: ClassVar[tuple[str, ...]] = ("mass",)

    recent: float = field(default=0.5, validator=[ge(0.0), lt(1.0)])

    @property
    def claims(self) -> frozenset[str]:
        return super().claims | {"follows_attention", "heads_are_alike", "layers_are_alike", "older_maps_are_ignored"}

    def observe(self, view: CacheView) -> Mapping[str, Tensor]:
        return {"mass": view.statistics["mass"] + view.attention_mass()}

    def score(self, view: CacheView, keep: int) -> Tensor:
        scores = view.statistics["mass"].clone()
        scores[:, :, view.tokens - int(self.recent * keep) :] = torch.inf
        return scores


def h2o() -> Policy:
    """Keeps the tokens with the most attention so far, and recent ones; the same number in every head."""
    return Policy(
        name="h2o",
        allocator=EvenBudget(),
        selector=HeavyHitters(),
        paper="H2O: Heavy-Hitter Oracle for Efficient Generative Inference of Large Language Models, arXiv 2306.14048",
    )
