"""Ada-KV: heads whose attention is concentrated hold less than heads whose attention is spread; tokens as SnapKV.

Feng et al., "Ada-KV: Optimizing KV Cache Eviction by Adaptive Budget Allocation for Efficient LLM Inference", NeurIPS 2025,
arXiv 2407.11550.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from attrs import field, frozen
from attrs.validators import gt, lt
from numpy.typing import NDArray

from scalekv_core.contracts.policy import Policy
from scalekv_core.contracts.profile import AttentionProfile
from scalekv_core.contracts.roles import LayerRoles
from scalekv_core.contracts.strategies import LayerClassifier
from scalekv_core.shapes.geometry import CacheGeometry
from scalekv_policies.by_score import ByScore
from scalekv_policies.snapkv import SnapSelector
from scalekv_policies.validators import needed


@frozen(kw_only=True)
class HeadDemand(LayerClassifier):
    """One role; a head's score is how much of its layer's budget its strongest tokens win.

    The paper takes the strongest tokens of all heads of a layer together, as many as the layer may hold, and counts how many are
    each head's. It does so for each prompt; here the weights are those of calibration: of every head the share of the history's
    attention that its strongest 1 %, 2 %, ... hold, with the steps between them taken as even.

    Attributes:
        budget: the share of the history that a layer holds while its heads compete, in (0, 1). Shares change little with it.
    """

    needs_profile: ClassVar[bool] = True

    budget: float = field(default=0.1, validator=[gt(0.0), lt(1.0)])

    def classify(self, profile: AttentionProfile | None, geometry: CacheGeometry) -> LayerRoles:
        profile = needed(profile, "ada-kv")
        return LayerRoles.alike("any", geometry, self.demand(profile))

    def demand(self, profile: AttentionProfile) -> NDArray[np.float64]:
        """[K, L, H] the share of the history that each head wins; ``budget`` is the mean over the heads of a layer."""
        order = np.argsort(profile.fractions)
        fractions = np.asarray(profile.fractions, dtype=np.float64)[order]
        held = profile.top_share[..., order].astype(np.float64)
        width = np.diff(np.concatenate([[0.0], fractions, [1.0]]))
        first, last = np.zeros_like(held[..., :1]), np.ones_like(held[..., :1])
        gain = np.diff(np.concatenate([first, held, last], axis=-1))
        history = 1 - profile.current_mass.astype(np.float64)[..., None]
        steepness = np.divide(history * gain, width, out=np.zeros_like(gain), where=width > 0)
        return _won(steepness, np.broadcast_to(width, steepness.shape), self.budget)


def _won(steepness: NDArray[np.float64], width: NDArray[np.float64], budget: float) -> NDArray[np.float64]:
    """[K, L, H] how much each head gets of the steepest pieces [K, L, H, F] of its layer; ``budget`` is the mean.

    The pieces that the budget ends in share what is left, so that heads that are alike win the same.
    """
    scales, layers, heads, pieces = steepness.shape
    flat, wide = steepness.reshape(scales, layers, -1), width.reshape(scales, layers, -1)
    order = np.argsort(-flat, axis=-1, kind="stable")
    reached = np.take_along_axis(wide, order, axis=-1).cumsum(axis=-1)
    at = np.argmax(reached >= budget * heads - 1e-12, axis=-1)[..., None]
    level = np.take_along_axis(np.take_along_axis(flat, order, axis=-1), at, axis=-1)
    above, level_with = np.where(flat > level, wide, 0.0), np.where(flat == level, wide, 0.0)
    rest = (budget * heads - above.sum(axis=-1, keepdims=True)) / level_with.sum(axis=-1, keepdims=True)
    return (above + level_with * rest).reshape(scales, layers, heads, pieces).sum(axis=-1)


def ada_kv() -> Policy:
    """Keeps the tokens that the last queries of each map attend to; heads with widespread attention hold more."""
    return Policy(
        name="ada-kv",
        classifier=HeadDemand(),
        allocator=ByScore(across="layer"),
        selector=SnapSelector(),
        paper="Ada-KV: Optimizing KV Cache Eviction by Adaptive Budget Allocation for Efficient LLM Inference, arXiv 2407.11550",
    )
