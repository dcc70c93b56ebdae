"""CAKE: layers with widespread, moving attention hold more; tokens that only some queries attend to are kept too.

Qin et al., "CAKE: Cascading and Adaptive KV Cache Eviction with Layer Preferences", ICLR 2025, arXiv 2503.12491.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import torch
from attrs import field, frozen
from attrs.validators import ge, gt, in_
from torch import Tensor

from scalekv_core import ops
from scalekv_core.contracts.policy import Policy
from scalekv_core.contracts.profile import AttentionProfile
from scalekv_core.contracts.roles import LayerRoles
from scalekv_core.contracts.strategies import LayerClassifier
from scalekv_core.contracts.view import CacheView
from scalekv_core.shapes.geometry import CacheGeometry
from scalekv_policies.by_score import ByScore
from scalekv_policies.snapkv import SnapSelector
from scalekv_policies.validators import needed


@frozen(kw_only=True)
class LayerPreference(LayerClassifier):
    """One role; a layer's score is its preference, from calibration::

        P(k, l) = H(k, l)^(1 / dispersion)  x  V(k, l)^(1 / shift)

    with H the entropy of a query's attention and V the variance of a token's attention over queries, summed over tokens; both
    are means over heads. The paper measures them for each prompt while it is read, and evicts layer by layer as budgets shrink;
    here they are measured once, so that the bytes of an image are known before it is generated.

    Attributes:
        dispersion, shift: temperatures; the paper chooses them for each model.
    """

    needs_profile: ClassVar[bool] = True

    dispersion: float = field(default=1.0, validator=gt(0.0))
    shift: float = field(default=1.0, validator=gt(0.0))

    def classify(self, profile: AttentionProfile | None, geometry: CacheGeometry) -> LayerRoles:
        profile = needed(profile, "cake")
        entropy, variance = (
            profile.measured(name).mean(axis=2, dtype=np.float64).clip(min=0) for name in ("entropy", "column_variance")
        )
        preference = entropy ** (1 / self.dispersion) * variance ** (1 / self.shift)
        return LayerRoles.alike("any", geometry, np.tile(preference[..., None], (1, 1, geometry.heads)))


@frozen(kw_only=True)
class MeanAndVariance(SnapSelector):
    """As `snapkv`, but scores add the variance of attention over the window's queries to its sum::

        s_j = sum over i in W of alpha_ij  +  gamma  x  |W|  x  variance over i in W of alpha_ij

    That is the paper's mean plus gamma times the variance, times the number of queries. Its pooling is an average.

    Attributes:
        gamma: how much the variance counts.
    """

    pooling: Literal["max", "avg"] = field(default="avg", validator=in_(("max", "avg")))
    gamma: float = field(default=200.0, validator=ge(0.0))

    @property
    def claims(self) -> frozenset[str]:
        return super().claims - {"follows_attention"}

    def window_scores(self, view: CacheView, window: int) -> Tensor:
        queries = view.queries(view.table(torch.arange, view.current - window, view.current))
        bias = None if view.counts is None else view.counts.log().unsqueeze(2)
        sums: Tensor | None = None
        for part in queries.split(ops.chunk_length(view.k), dim=2):
            attention = ops.attention_probabilities(part, view.k, view.softmax_scale, bias)
            both = torch.stack([attention.sum(dim=2), torch.linalg.vecdot(attention, attention, dim=2)])
            sums = both if sums is None else sums + both
        assert sums is not None, "a window has at least one query"
        total, squares = sums
        spread = torch.addcmul(squares, total, total, value=-1 / queries.shape[2]).clamp_min_(0)  # |W| x variance
        return total.add(spread, alpha=self.gamma)


def cake() -> Policy:
    """Keeps tokens that all or some of a map's last queries attend to; layers with widespread attention hold more."""
    return Policy(
        name="cake",
        classifier=LayerPreference(),
        allocator=ByScore(floor=0.0),
        selector=MeanAndVariance(),
        paper="CAKE: Cascading and Adaptive KV Cache Eviction with Layer Preferences, arXiv 2503.12491",
    )
