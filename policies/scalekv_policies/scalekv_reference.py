"""The rule of the released ScaleKV code, with its published tables.

Code: github.com/StargazerX0/ScaleKV, commit eb0615a. Paper: arXiv 2505.19602; the paper's method is `scalekv`. This one
exists to compare with published results. It departs from the paper in the following:

* Scores are raw logits summed over the window, without softmax, and are pooled by maximum with width 5 over the flattened
  cached sequence, across rows, maps and gaps (paper: softmax weights, average pooling).
* Drafters keep practically everything, the same layers at (nearly) every scale; refiners do not decay linearly.
* Capacities exist for 650 tokens, two models and the square schedule of 1024 x 1024 only.
* The released code scores with queries that it projects anew, without bias, normalisation, head scale and rotation,
  against keys that have all of it. A policy sees the queries that attention used, so `scalekv-reference` selects as
  the released code does *given the same queries*, and better than it in practice.
* The released code also evicts after the last scale, to which no later scale attends; scalekv stores nothing there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from attrs import field, frozen
from attrs.validators import ge
from torch import Tensor

from scalekv_core.contracts.plan import CachePlan
from scalekv_core.contracts.policy import Policy
from scalekv_core.contracts.profile import AttentionProfile
from scalekv_core.contracts.roles import LayerRoles
from scalekv_core.contracts.strategies import BudgetAllocator, LayerClassifier, ScoringSelector
from scalekv_core.contracts.view import CacheView
from scalekv_core.errors import BudgetError, InputError
from scalekv_core.shapes.geometry import CacheGeometry
from scalekv_core.shapes.schedule import Map, ScaleSchedule
from scalekv_policies.scalekv import DRAFTER, PAPER, REFINER
from scalekv_policies.validators import is_odd

SQUARE_1M = ScaleSchedule.square(1, 2, 4, 6, 8, 12, 16, 20, 24, 32, 40, 48, 64)
BASE = 650


@frozen
class ReleasedRow:
    """The released table for one scale: the drafter layers, and the tokens per head of a drafter and of a refiner."""

    drafters: tuple[int, ...]
    drafter: int
    refiner: int


RELEASED: Mapping[tuple[int, int], Mapping[int, ReleasedRow]] = {
    (32, 16): {  # Infinity-2B
        8: ReleasedRow((0, 23), 920, 632),
        9: ReleasedRow((0, 23), 1490, 594),
        10: ReleasedRow((0, 23), 2510, 526),
        11: ReleasedRow((0, 23), 4100, 420),
        12: ReleasedRow((0,), 6385, 465),
    },
    (40, 28): {  # Infinity-8B
        8: ReleasedRow((0, 1, 2), 909, 629),
        9: ReleasedRow((0, 1, 2), 1464, 584),
        10: ReleasedRow((0, 1, 2), 2463, 503),
        11: ReleasedRow((0, 1, 2), 4054, 374),
        12: ReleasedRow((0, 1, 2), 6200, 200),
    },
}
"""{(layers, heads): {scale that reads the history: row}}; the released files count scales from 1."""


def released_rows(geometry: CacheGeometry) -> Mapping[int, ReleasedRow]:
    """The released table of this model.

    Raises:
        InputError: there is none.
    """
    rows = RELEASED.get((geometry.layers, geometry.heads))
    if rows is None or geometry.schedule != SQUARE_1M:
        known = ", ".join(f"{layers} layers x {heads} heads" for layers, heads in RELEASED)
        raise InputError(
            f"scalekv-reference has released tables for {known} (Infinity-2B, 8B) with maps {SQUARE_1M}; this is "
            f"{geometry.layers} x {geometry.heads} with maps {geometry.schedule}; use policy 'scalekv'"
        )
    return rows


ONLY_FOR = tuple(
    (CacheGeometry(schedule=SQUARE_1M, layers=layers, heads=heads, head_dim=128), f"{BASE} tokens")
    for layers, heads in RELEASED
)
"""The models of the tables, Infinity-2B and 8B, with the budget of the tables."""


@frozen
class ReleasedClassifier(LayerClassifier):
    """The drafter layers of the released tables: 0 and 23 (2B), 0, 1 and 2 (8B).

    Raises:
        InputError: the model or its schedule is not one of the two.
    """

    only_for: ClassVar[tuple[tuple[CacheGeometry, str], ...]] = ONLY_FOR

    def classify(self, profile: AttentionProfile | None, geometry: CacheGeometry) -> LayerRoles:
        labels = np.zeros((len(geometry.schedule), geometry.layers, geometry.heads), dtype=np.int8)
        for scale, row in released_rows(geometry).items():
            labels[scale, list(row.drafters)] = 1
        return LayerRoles((REFINER, DRAFTER), labels)


@frozen
class ReleasedAllocator(BudgetAllocator):
    """The released capacities; everything is kept as long as the history is within 650 tokens.

    Raises:
        InputError: the model or its schedule is not one of the two.
        BudgetError: the budget is not 650 tokens, or the roles are not the released ones.
    """

    only_for: ClassVar[tuple[tuple[CacheGeometry, str], ...]] = ONLY_FOR

    def allocate(self, geometry: CacheGeometry, roles: LayerRoles, slots: int) -> CachePlan:
        rows = released_rows(geometry)
        if slots != BASE * geometry.slots_per_token:
            raise BudgetError(
                f"policy 'scalekv-reference' was released for '{BASE} tokens'; the budget buys "
                f"{slots / geometry.slots_per_token:.1f}; leave it out or use policy 'scalekv'"
            )
        capacity = np.empty((len(geometry.schedule), geometry.layers, geometry.heads), dtype=np.int64)
        capacity[:] = np.asarray(geometry.schedule.keepable())[:, None, None]
        for scale, row in rows.items():
            capacity[scale - 1] = np.where(roles.is_role(DRAFTER)[scale], row.drafter, row.refiner)
        plan = CachePlan(geometry.schedule, capacity)
        if (plan.slots() > slots).any():
            raise BudgetError(
                "allocator 'scalekv-reference' goes with classifier 'scalekv-reference'; other roles cost more"
            )
        return plan


@frozen(kw_only=True)
class ReleasedSelector(ScoringSelector):
    """The released rule: the window, and the others with the highest max-pooled sums of logits.

    With W the window, g x g tokens of a map of side a (g^2 = ``window``) at rows and columns i p + floor((p - 1) / 2),
    p = floor(a / g), and n the tokens that are there::

        s_j = sum over i in W of q_i k_j / sqrt(d),  -inf for j in W;     kept: W and the keep - |W| best of maxpool(s)

    Where the map is not square or smaller than g, or ``window`` no square number, W is the end of the map.
    Equal pooled scores are frequent, and which of them is kept depends on the device.

    Attributes:
        window: tokens in W.
        kernel: width of the pooling, odd.
    """

    window: int = field(default=16, validator=ge(1))
    kernel: int = field(default=5, validator=[ge(1), is_odd])

    @property
    def claims(self) -> frozenset[str]:
        alike = {"heads_are_alike", "layers_are_alike", "length_of_keys_is_ignored", "older_maps_are_ignored"}
        return super().claims | alike  # not follows_attention: logits know nothing of how many tokens one stands for

    def least(self, schedule: ScaleSchedule, scale: int) -> int:
        """The least capacity: the window, below which the released code stops with an error."""
        return min(self.window, schedule.tokens[scale])

    def score(self, view: CacheView, keep: int) -> Tensor:
        window = view.table(released_window, view.map, self.window)
        summed = summed_logits(view.queries(window), view.k)
        inside = window + view.history
        return max_pooled(summed, inside, self.kernel).index_fill(2, inside, torch.inf)


def released_window(sizes: Map, window: int, device: torch.device) -> Tensor:
    """(W,) indices into the map of the queries that score the tokens.

    >>> released_window((1, 20, 20), 4, torch.device("cpu"))
    tensor([ 84,  94, 284, 294])
    """
    (t, h, w), grid = sizes, math.isqrt(window)
    if t != 1 or h != w or h < grid or grid * grid != window:
        return torch.arange(max(0, t * h * w - window), t * h * w, device=device)
    patch = h // grid
    along = torch.arange(grid, device=device) * patch + (patch - 1) // 2
    return (along[:, None] * w + along).flatten()


def summed_logits(queries: Tensor, keys: Tensor) -> Tensor:
    """(B, H, N) float32 sums of q.k / sqrt(D) over the queries (B, H, W, D), for each of the keys (B, H, N, D)."""
    logits = torch.matmul(queries, keys.transpose(2, 3)) / math.sqrt(keys.shape[3])
    return logits.float().sum(dim=2)


def max_pooled(scores: Tensor, window: Tensor, kernel: int) -> Tensor:
    """(B, H, N) maxima over ``kernel`` neighbours in the sequence; window tokens are excluded and get -inf."""
    outside = scores.index_fill(2, window, -torch.inf)
    return F.max_pool1d(outside, kernel, stride=1, padding=kernel // 2).index_fill(2, window, -torch.inf)


def scalekv_reference() -> Policy:
    """The rule of the released ScaleKV code: published capacities at 650 tokens, raw logits, max pooling."""
    return Policy(
        name="scalekv-reference",
        classifier=ReleasedClassifier(),
        allocator=ReleasedAllocator(),
        selector=ReleasedSelector(),
        budget=f"{BASE} tokens",
        paper=f"{PAPER}; github.com/StargazerX0/ScaleKV eb0615a",
    )
