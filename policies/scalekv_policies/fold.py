"""Folding: an evicted token is merged into the kept token with the most similar key instead of being dropped.

No paper; the idea of token merging (Bolya et al., "Token Merging: Your ViT But Faster", ICLR 2023, arXiv 2210.09461) for
a cache. The experiments are in docs/notebook.md.
"""

from __future__ import annotations

import torch
from attrs import field, frozen
from attrs.validators import ge
from torch import Tensor

from scalekv_core import ops
from scalekv_core.contracts.policy import Policy
from scalekv_core.contracts.strategies import ScoringSelector, TokenMerger
from scalekv_core.contracts.view import CacheView
from scalekv_policies.maps import patch_centres
from scalekv_policies.uniform import EvenBudget

QUERIES = 64
"""Number of patches whose central queries give the attention, for selection and for weights, computed once."""
FAINTEST = 1e-12
"""The smallest weight, so that means exist where no query attends."""


@frozen(kw_only=True)
class ValueMass(ScoringSelector):
    """Keeps the tokens with the most weight in the output of attention: attention mass times the length of the value.

    With W the centres of the patches that the map is divided into, and c_j how many tokens j stands for::

        s_j = |v_j|  x  sum over i in W of softmax_j( q_i k_j / sqrt(d) + log c_j )

    A token whose value is short adds little wherever it is looked at. Nothing is protected: the current map competes.

    Attributes:
        queries: patches, at most; all tokens of a smaller map. More cost more and, past 16, bring little.
    """

    queries: int = field(default=QUERIES, validator=ge(1))

    @property
    def claims(self) -> frozenset[str]:
        return super().claims | {"heads_are_alike", "layers_are_alike", "older_maps_are_ignored"}

    def score(self, view: CacheView, keep: int) -> Tensor:
        return mass_of_patches(view, self.queries) * torch.linalg.vector_norm(view.v.float(), dim=-1)


@frozen(kw_only=True)
class Fold(TokenMerger):
    """Folds every evicted token into the kept one with the most similar key.

    ::

        t(j) = argmax over kept i of cos(k_j, k_i)

    The core replaces the keys and values of kept tokens by means over all tokens folded into them, and adds the logarithm of
    their number to the logits, so attention over similar tokens is nearly unchanged. Similarity of values, or of both, was not
    better. In the means a token has as weight the geometric mean of its count and of the attention that it gets::

        w_j = sqrt( c_j  x  sum over i in W of softmax_j( q_i k_j / sqrt(d) + log c_j ) )

    By counts alone, what queries look at is lost among what they do not; by attention alone, what later queries may look at.

    Attributes:
        channels: how many channels of the keys are compared, at most, evenly spaced; what folding costs is in proportion.
        patches: how many there are whose centres W are asked for the weights, at most; all tokens of a smaller map.
    """

    channels: int = field(default=64, validator=ge(1))
    patches: int = field(default=QUERIES, validator=ge(1))

    def assign(self, view: CacheView, kept: Tensor) -> Tensor:
        target = ops.most_alike(view.k, kept, every=-(-view.k.shape[3] // self.channels))
        return target.scatter_(2, kept, view.table(torch.arange, kept.shape[2]).expand(kept.shape))

    def weights(self, view: CacheView) -> Tensor:
        mass = mass_of_patches(view, self.patches).clamp_min(FAINTEST)
        return (mass if view.counts is None else mass * view.counts).sqrt()


def mass_of_patches(view: CacheView, patches: int) -> Tensor:
    """(B, H, N) the attention mass that each token gets from the central queries of the map's patches."""
    return view.attention_mass(view.table(patch_centres, view.map, patches))


def fold() -> Policy:
    """Keeps the tokens with the most weight in the output and folds the others into them; the same number in every head."""
    return Policy(name="fold", allocator=EvenBudget(), selector=ValueMass(), merger=Fold())
