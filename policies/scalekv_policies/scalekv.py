"""ScaleKV: layers that attend to all scales (drafters) keep nearly everything; the others (refiners) share the rest.

Li et al., "Memory-Efficient Visual Autoregressive Modeling with Scale-Aware KV Cache Compression", NeurIPS 2025,
arXiv 2505.19602. This is the method of the paper, for any schedule and budget; what the released code does instead is
`scalekv_reference`. Each part says what the paper leaves open and how it was closed.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import numpy as np
import torch
from attrs import Attribute, field, frozen
from attrs.validators import ge, gt, in_, le, lt
from numpy.typing import NDArray
from torch import Tensor

from scalekv_core.contracts.plan import CachePlan
from scalekv_core.contracts.policy import Policy
from scalekv_core.contracts.profile import AttentionProfile
from scalekv_core.contracts.roles import LayerRoles
from scalekv_core.contracts.strategies import BudgetAllocator, LayerClassifier, ScoringSelector
from scalekv_core.contracts.view import CacheView
from scalekv_core.shapes.geometry import CacheGeometry
from scalekv_policies.maps import patch_centres, pool_average, pool_max
from scalekv_policies.shares import fair_shares, refuse_less_than_one_each
from scalekv_policies.validators import is_odd, needed

PAPER = "Memory-Efficient Visual Autoregressive Modeling with Scale-Aware KV Cache Compression, NeurIPS 2025, arXiv 2505.19602"
REFINER, DRAFTER = "refiner", "drafter"
_EPSILON = 1e-6


@frozen(kw_only=True)
class ScaleKVClassifier(LayerClassifier):
    """Drafters are the (scale, layer) pairs with the lowest Attention Selectivity Index.

    Equations (2) and (3), alpha_ij the softmax attention of query i of map k to token j, C the map, P the history::

        ASI(k, l) = E_i[ sum over j in C of alpha_ij ]  x  E_i[ sum of the K' largest alpha_ij, j in P ]
        Z(k, l)   = (ASI(k, l) - mu_k) / (sigma_k + eps)              mu_k, sigma_k over the layers at scale k
        drafters  = the N_d pairs of lowest Z over all scales and layers

    Left open by the paper, and decided here:

    * As printed the second factor is at most 1 - the first, so that a layer which looks at its map alone gets an index
      of 0: a perfect refiner would be called a drafter. ``conditional`` divides the second factor by the mass of the
      history: how concentrated the history part is, whatever its size. ``printed`` is the equation to the letter.
    * Heads: the index of a layer is the mean of the indices of its heads. Queries, prompts and both halves of a guided
      batch are averaged within each factor.
    * K' is a share of the history (``top``), N_d a share of the pairs; scale 0 has no history and no pairs, its layers
      count as refiners. Ties go to the earlier scale, then to the earlier layer.

    Attributes:
        form: ``conditional`` or ``printed``.
        top: K' as a share of the history; one of those that the profile has.
        drafters: share of the pairs, rounded up, in [0, 1). The released tables have 5.6 % (2B) and 7.5 % (8B).
    """

    needs_profile: ClassVar[bool] = True

    form: Literal["conditional", "printed"] = field(default="conditional", validator=in_(("conditional", "printed")))
    top: float = field(default=0.1, validator=[gt(0.0), le(1.0)])
    drafters: float = field(default=1 / 16, validator=[ge(0.0), lt(1.0)])

    def classify(self, profile: AttentionProfile | None, geometry: CacheGeometry) -> LayerRoles:
        profile = needed(profile, "scalekv")
        index = self.selectivity(profile)
        later = index[1:]
        z = (later - later.mean(axis=1, keepdims=True)) / (later.std(axis=1, keepdims=True) + _EPSILON)
        count = math.ceil(round(self.drafters * z.size, 9))
        labels = np.zeros(index.shape, dtype=np.int8)
        labels[1:].flat[np.argsort(z, axis=None, kind="stable")[:count]] = 1
        heads = (1, 1, geometry.heads)
        return LayerRoles((REFINER, DRAFTER), np.tile(labels[..., None], heads), np.tile(index[..., None], heads))

    def selectivity(self, profile: AttentionProfile) -> NDArray[np.float64]:
        """[K, L] the Attention Selectivity Index of every layer at every scale; 1 at scale 0."""
        current = profile.current_mass.astype(np.float64)
        top = profile.top_share_at(self.top).astype(np.float64)
        if self.form == "printed":
            top[1:] *= 1 - current[1:]
        index: NDArray[np.float64] = (current * top).mean(axis=2)
        return index


def _less_than_refiner(instance: ScaleKVAllocator, attribute: Attribute[float], value: float) -> None:
    if not 0 <= value < instance.refiner:
        raise ValueError(f"'decay' must be at least 0 and below refiner = {instance.refiner:g}; got {value:g}")


@frozen(kw_only=True)
class ScaleKVAllocator(BudgetAllocator):
    """Refiners get fewer tokens from scale to scale, and drafters get the rest.

    Equation (4), with B the mean capacity that the budget allows (650 tokens in the paper)::

        sum over k of ( N_d(k) B_d(k) + N_r(k) B_r(k) ) = B L K,       B_r(k) = B_r(0) - delta k

    * The equation holds at *every* scale here, as in the released tables, since a budget is a bound on memory. Before
      the history exceeds B everything is kept.
    * k counts the scales at which something must go (0 to E - 1): with the paper's 600 - 70 k tokens B_r would become
      negative within 13 scales. The paper's case has E = 5, so B_r falls from 600 to 320 of 650; the fall is spread over
      however many such scales a schedule has, so that it never becomes negative.
    * A drafter can hold no more than it held before and the new map. What the drafters can't use goes back to the
      refiners equally, rounded up, and the drafters pay for the rounding. With the released roles of Infinity-2B and
      650 tokens the drafters are full, refiners get more than B_r, and all published capacities come out. What some
      refiners can't use either, since they hold little and the map is small, goes to the others.
    * What is held after scale k is read at scale k + 1, so the roles of scale k + 1 decide.

    Places are (layer, head); heads of a layer get the same unless the classifier tells them apart. Without drafters
    everyone gets the same.

    Attributes:
        refiner: B_r at the first such scale, as a share of B, in (0, 1].
        decay: how much lower it is at the last one, as a share of B.

    Raises:
        BudgetError: the budget is less than one token per layer and head.
    """

    refiner: float = field(default=600 / 650, validator=[gt(0.0), le(1.0)])
    decay: float = field(default=4 * 70 / 650, validator=_less_than_refiner)

    def allocate(self, geometry: CacheGeometry, roles: LayerRoles, slots: int) -> CachePlan:
        per_token, schedule = geometry.slots_per_token, geometry.schedule
        refuse_less_than_one_each(geometry, slots)
        capacity = np.empty((len(schedule), geometry.layers, geometry.heads), dtype=np.int64)
        keepable = schedule.keepable()
        capacity[:] = np.asarray(keepable)[:, None, None]
        drafters = roles.is_role(DRAFTER)
        evicting = [k for k, tokens in enumerate(keepable) if tokens * per_token > slots]
        for step, k in enumerate(evicting):
            before = capacity[k - 1] if k else 0
            least = self.refiner_tokens(slots / per_token, step, len(evicting))
            there = np.minimum(before + np.full_like(capacity[k], schedule.tokens[k]), keepable[k])
            capacity[k] = _split(slots, there, drafters[k + 1], least)
        return CachePlan(schedule, capacity)

    def refiner_tokens(self, mean: float, step: int, steps: int) -> int:
        """B_r at the step-th of the ``steps`` scales at which tokens are evicted, at least 1 token.

        >>> [ScaleKVAllocator().refiner_tokens(650, step, 5) for step in range(5)]
        [600, 530, 460, 390, 320]
        """
        share = self.refiner - self.decay * step / max(1, steps - 1)
        return max(1, int(round(share * mean, 6)))


def _split(slots: int, limits: NDArray[np.int64], drafter: NDArray[np.bool_], least: int) -> NDArray[np.int64]:
    """[L, H] tokens: refiners get their minimum, drafters the rest, and refiners what exceeds the drafters' limits."""
    shares = np.zeros_like(limits)
    if refiners := int((~drafter).sum()):
        spare = slots - int(limits[drafter].sum())
        each = max(least, -(-spare // refiners))
        if each * limits.size > slots:  # rounding up may not take from drafters below what refiners get
            each = max(least, spare // refiners)
        shares[~drafter] = fair_shares(slots, np.minimum(limits[~drafter], each))
    shares[drafter] = fair_shares(slots - int(shares.sum()), limits[drafter])
    if (
        refiners and (spare := slots - int(shares.sum())) >= limits.size
    ):  # more than rounding: not all could hold theirs
        shares[~drafter] = fair_shares(int(shares[~drafter].sum()) + spare, limits[~drafter])
    return shares


@frozen(kw_only=True)
class ScaleKVSelector(ScoringSelector):
    """Keeps the centres of the map's patches, and the tokens that they attend to, pooled over neighbours.

    Equation (5), W the centre tokens of the patches that map k is divided into ("typically 16")::

        A = softmax(Q K^T / sqrt(d)),     s_j = sum over i in W of A_ij,     kept: W and the best of pool(s)

    * The patches follow the proportion of the map, so that any aspect ratio works. The map of a video (t > 1) is divided
      in all three directions.
    * Pooling is in two dimensions, on the map that a token comes from: neighbours in the picture, never the end of one
      row and the start of the next. Tokens that are gone don't count: an average is over those present.
    * The paper pools by averages and gives no width. ``kernel`` 3 takes in 9 tokens.
    * At the paper's sizes W is a small part of the capacity and always kept. Where it is not, W is certain only up to a
      share ``protect`` of the capacity, its best first, and the others compete.
    * Every row and head chooses for itself.

    Attributes:
        window: patches, at most; all tokens of a smaller map.
        kernel: side of the pooling, odd; 1 for none.
        pooling: ``avg``, ``max`` or ``none``.
        protect: the most of the capacity that the window takes without competing, in [0, 1].
    """

    window: int = field(default=16, validator=ge(1))
    kernel: int = field(default=3, validator=[ge(1), is_odd])
    pooling: Literal["avg", "max", "none"] = field(default="avg", validator=in_(("avg", "max", "none")))
    protect: float = field(default=0.25, validator=[ge(0.0), le(1.0)])

    @property
    def claims(self) -> frozenset[str]:
        return super().claims | {"follows_attention", "heads_are_alike", "layers_are_alike", "older_maps_are_ignored"}

    def score(self, view: CacheView, keep: int) -> Tensor:
        window = view.table(patch_centres, view.map, self.window)
        scores = self._pooled(view.attention_mass(window), view)
        protected = min(window.shape[0], int(self.protect * keep))
        current = scores[:, :, view.history :]
        if protected == window.shape[0]:
            current.index_fill_(2, window, torch.inf)
        elif protected:
            best = (current + view.table(outside_patch_centres, view.map, self.window)).topk(protected, dim=-1).indices
            current.scatter_(2, best, torch.inf)
        return scores

    def _pooled(self, scores: Tensor, view: CacheView) -> Tensor:
        """In new memory."""
        if self.pooling == "none" or self.kernel == 1:
            return scores.clone()
        pool = pool_max if self.pooling == "max" else pool_average
        return pool(scores, view, self.kernel)


def outside_patch_centres(sizes: tuple[int, ...], patches: int, device: torch.device) -> Tensor:
    """(tokens of the map,) 0 at the centre of a patch and -inf elsewhere."""
    outside = torch.full((math.prod(sizes),), -torch.inf, device=device)
    return outside.index_fill_(0, patch_centres(sizes, patches, device), 0.0)


def scalekv() -> Policy:
    """Keeps the tokens that the centres of patches attend to; drafter layers hold nearly everything, refiners share the rest."""
    return Policy(
        name="scalekv",
        classifier=ScaleKVClassifier(),
        allocator=ScaleKVAllocator(),
        selector=ScaleKVSelector(),
        paper=PAPER,
    )
