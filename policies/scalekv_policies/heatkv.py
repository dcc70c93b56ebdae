"""HeatKV: an earlier map is evicted as a whole from the heads in which later maps attend to it least.

"HeatKV: Head-tuned KV-cache compression for visual autoregressive modeling", arXiv 2605.14877; code:
github.com/arm-research/heatkv, commit 96dc288.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from attrs import field, frozen
from attrs.validators import ge
from numpy.typing import NDArray

from scalekv_core.contracts.plan import CachePlan, everything
from scalekv_core.contracts.policy import Policy
from scalekv_core.contracts.profile import AttentionProfile
from scalekv_core.contracts.roles import LayerRoles
from scalekv_core.contracts.strategies import BudgetAllocator, LayerClassifier
from scalekv_core.errors import BudgetError
from scalekv_core.shapes.geometry import CacheGeometry
from scalekv_core.shapes.schedule import ScaleSchedule
from scalekv_policies.uniform import UniformSelector
from scalekv_policies.validators import needed


@frozen
class ScaleAttention(LayerClassifier):
    """One role; the score of source scale s is the attention that later scales give it, for every layer and head::

        S-CAS(l, h, s) = 1 / (K - 1 - s)  x  sum over t > s of mass_t(l, h, s)

    with mass_t(l, h, s) the softmax attention of the queries of scale t to the tokens of scale s, summed over those tokens and
    averaged over queries. The released code measures guided rows only; a profile is an average over all rows.
    """

    needs_profile: ClassVar[bool] = True

    def classify(self, profile: AttentionProfile | None, geometry: CacheGeometry) -> LayerRoles:
        profile = needed(profile, "heatkv")
        scales = len(geometry.schedule)
        scores = np.zeros((scales, geometry.layers, geometry.heads))
        for source in range(scales - 1):
            scores[source] = profile.mass[source + 1 :, :, :, source].mean(axis=0, dtype=np.float64)
        return LayerRoles.alike("any", geometry, scores)


@frozen(kw_only=True)
class WholeMapsPerHead(BudgetAllocator):
    """Each head keeps or evicts an earlier map as a whole; every map is evicted from the same number of heads.

    With A = layers x heads, T the tokens seen after scale t, R those of the protected maps, and S the slots::

        x(t) = ceil( (A T - S) / (T - R) ),   0 where A T <= S

    After scale t the x(t) heads with the lowest scores for source scale s no longer hold the map of s, for every s that is not
    protected. Equal scores go by head, then by layer; without scores all are equal.

    * The rounding leaves less than T - R tokens of the budget. With ``spend_rest`` the head that forgot a map last gets them back,
      the latest map first, so that methods are compared at the same budget; the selector chooses these tokens. The released code
      leaves them unused.
    * The released code also brings removals forward while a scale is generated, layer by layer, so that the budget holds there
      too. Here the budget holds after every scale, and planned peak memory counts what is held in between.
    * Heads that hold other maps are stored apart, so one layer launches attention up to H times. The released code has a kernel
      of its own for that.

    Attributes:
        protect: the first maps, which every head holds; the paper's 3.
        spend_rest: whether what the rounding leaves is used.

    Raises:
        BudgetError: the budget is less than the protected maps of all heads.
    """

    protect: int = field(default=3, validator=ge(0))
    spend_rest: bool = True

    def allocate(self, geometry: CacheGeometry, roles: LayerRoles, slots: int) -> CachePlan:
        schedule, heads = geometry.schedule, geometry.slots_per_token
        protected = schedule.history[min(self.protect, len(schedule) - 1)]
        if slots < heads * protected:
            raise BudgetError(
                f"the first {self.protect} maps are {protected} tokens of every head; the budget buys {slots / heads:.1f}"
            )
        if slots >= heads * schedule.last_history:
            return everything(geometry)
        turns = removal_turns(roles, schedule)
        scales = len(schedule)
        quota = np.zeros((scales, geometry.layers, geometry.heads, scales), dtype=np.int64)
        before = np.broadcast_to(np.asarray(schedule.tokens), quota.shape[1:]).copy()
        for k, seen in enumerate(schedule.seen[:-1]):
            now = np.where(np.arange(scales) <= k, before, 0)
            removed = 0 if heads * seen <= slots else -(-(heads * seen - slots) // (seen - protected))
            for source in range(self.protect, k + 1):
                now[..., source][turns[source] < removed] = 0
            if removed and self.spend_rest:
                _give_back(now, before, turns, removed - 1, range(k, self.protect - 1, -1), slots)
            quota[k] = now
            before[..., : k + 1] = now[..., : k + 1]
        return CachePlan(schedule, quota.sum(axis=-1), quota)


def removal_turns(roles: LayerRoles, schedule: ScaleSchedule) -> NDArray[np.int64]:
    """[K, L, H] the turn in which each map is evicted from each head; 0 is the first."""
    scores = np.zeros(roles.labels.shape) if roles.scores is None else roles.scores
    scales, layers, heads = scores.shape
    by_head = scores.swapaxes(1, 2).reshape(scales, heads * layers)
    order = np.argsort(by_head, axis=1, kind="stable")
    turns = np.empty_like(order)
    np.put_along_axis(turns, order, np.arange(heads * layers)[None], axis=1)
    return np.ascontiguousarray(turns.reshape(scales, heads, layers).swapaxes(1, 2))


def _give_back(
    now: NDArray[np.int64],
    before: NDArray[np.int64],
    turns: NDArray[np.int64],
    last: int,
    sources: range,
    slots: int,
) -> None:
    """Gives the head with turn ``last`` as much of each source scale, in this order, as the slots allow."""
    for source in sources:
        layer, head = np.argwhere(turns[source] == last)[0]
        spare = slots - int(now.sum())
        now[layer, head, source] = min(spare, int(before[layer, head, source]))


def heatkv() -> Policy:
    """Keeps whole maps, each in the heads that attend to it most; every head keeps different maps."""
    return Policy(
        name="heatkv",
        classifier=ScaleAttention(),
        allocator=WholeMapsPerHead(),
        selector=UniformSelector(),
        paper="HeatKV: Head-tuned KV-cache Compression for Visual Autoregressive Modeling, arXiv 2605.14877",
    )
