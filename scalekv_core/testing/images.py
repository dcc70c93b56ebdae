"""Runs an image through the cache without a model: a case gives queries, keys and values of every layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from attrs import define, evolve, field, frozen
from torch import Tensor

from scalekv_core.cache.kv_cache import KVCache
from scalekv_core.contracts.plan import CachePlan
from scalekv_core.contracts.policy import Policy
from scalekv_core.contracts.profile import AttentionProfile
from scalekv_core.contracts.view import CacheView
from scalekv_core.errors import BudgetError, ContractError
from scalekv_core.planning.footprint import footprint
from scalekv_core.planning.planner import Planned, plan_policy
from scalekv_core.testing.cases import ImageCase, ModelCase, ProfileCase
from scalekv_core.testing.common import Blocked, Refused, all_same

AFFORDABLE = 2**23
"""Above so many dot products per row, layer and head, only some layers and heads of a model are run."""

Layers = Sequence[tuple[Tensor, Tensor, Tensor]]


class Attends(Protocol):
    """A cache: scalekv's, or that of an unmodified model."""

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, *, softmax_scale: float, store: bool = True
    ) -> Tensor: ...


def profile_of(case: ModelCase) -> AttentionProfile:
    """A profile such as calibration might measure on the model of this case."""
    return ProfileCase(maps=case.maps, layers=case.layers, heads=case.heads, seed=case.seed).profile()


def plan_for(policy: Policy, case: ImageCase) -> Planned:
    """The plan of this policy for this case; raises Refused for a refused budget, Blocked for an invalid plan."""
    profile = profile_of(case) if policy.needs_profile else None
    try:
        return plan_policy(policy, case.geometry, budget=case.budget or None, profile=profile)
    except BudgetError as error:
        raise Refused(f"it refuses this budget: {error}") from error
    except ContractError as error:
        raise Blocked("plans_within_its_budget", str(error)) from error


def affordable(planned: Planned) -> Planned:
    """The plan, or that of the first and last layer and one head where the whole would take minutes."""
    schedule = planned.geometry.schedule
    if sum(n * seen for n, seen in zip(schedule.tokens, schedule.seen, strict=True)) <= AFFORDABLE:
        return planned
    layers = sorted({0, planned.geometry.layers - 1})
    geometry = evolve(planned.geometry, layers=len(layers), heads=1, head_dim=min(4, planned.geometry.head_dim))
    quota = planned.plan.quota
    plan = CachePlan(schedule, planned.plan.capacity[:, layers, :1], None if quota is None else quota[:, layers, :1])
    return evolve(planned, geometry=geometry, plan=plan, footprint=footprint(plan, planned.policy, geometry))


@frozen(eq=False)
class Image:
    """A plan and the tensors of one image.

    Attributes:
        planned: possibly of a part of the model, see :func:`affordable`.
        layers: q, k, v (B, H, all tokens, D) of every layer.
    """

    planned: Planned
    layers: Layers

    @classmethod
    def of(cls, policy: Policy, case: ImageCase) -> Image:
        planned = affordable(plan_for(policy, case))
        return cls(planned, case.image(planned.geometry))

    def rows(self, rows: Tensor) -> Image:
        """The same image with these rows of the batch only, in this order."""
        geometry = evolve(self.planned.geometry, rows=len(rows))
        planned = evolve(
            self.planned, geometry=geometry, footprint=footprint(self.planned.plan, self.planned.policy, geometry)
        )
        return Image(planned, [(q[rows], k[rows], v[rows]) for q, k, v in self.layers])

    def map(self, scale: int, layer: int) -> tuple[Tensor, Tensor, Tensor]:
        """q, k, v (B, H, n, D) of one map in one layer."""
        schedule = self.planned.geometry.schedule
        start, stop = schedule.history[scale], schedule.seen[scale]
        q, k, v = (x[:, :, start:stop] for x in self.layers[layer])
        return q, k, v

    @property
    def softmax_scale(self) -> float:
        width: int = self.layers[0][0].shape[3]
        return float(width**-0.5)

    def cache(self, observer: Callable[[CacheView, Tensor | None], None] | None = None) -> KVCache:
        """A cache for this image that checks every answer."""
        return KVCache(self.planned.plan, self.planned.policy, check=True, observer=observer)

    def attend(self, cache: Attends, scale: int, layer: int) -> Tensor:
        """The attention of one map in one layer."""
        return self.attend_with(cache, layer, self.map(scale, layer))

    def attend_with(self, cache: Attends, layer: int, maps: Sequence[Tensor]) -> Tensor:
        """The same with these q, k, v."""
        with torch.inference_mode():
            try:
                q, k, v = maps
                return cache.attend(layer, q, k, v, softmax_scale=self.softmax_scale)
            except ContractError as error:
                raise Blocked("answers_are_accepted", str(error)) from error

    def generate(self, cache: Attends, *, scales: int | None = None) -> list[Tensor]:
        """The outputs of all layers and scales, or of the first ``scales``; Blocked if an answer is refused."""
        number = len(self.planned.geometry.schedule) if scales is None else scales
        return [out for scale in range(number) for out in self.generate_scale(cache, scale)]

    def generate_scale(self, cache: Attends, scale: int) -> list[Tensor]:
        """The outputs of all layers at one scale; Blocked if an answer is refused."""
        return [self.attend(cache, scale, layer) for layer in range(len(self.layers))]

    def plain_attention(self, view: CacheView) -> Tensor:
        """(B, H, n, D) attention over what this view holds and the model's own map, in float64 and by the formula."""
        q, *latest = (x[:, list(view.heads)].double() for x in self.map(view.scale, view.layer))
        held = (x[:, :, : view.history].double() for x in (view.k, view.v))
        k, v = (torch.cat(parts, dim=2) for parts in zip(held, latest, strict=True))
        logits = q @ k.transpose(2, 3) * self.softmax_scale
        if view.counts is not None:
            logits = logits + view.counts.double().log().unsqueeze(2)
        return logits.softmax(dim=-1) @ v

    def is_undecided(self) -> bool:
        """Whether a noise of the size of rounding changes which tokens are kept."""
        still, moved = Seen(), Seen()
        noise = torch.Generator().manual_seed(0)

        def noisy(x: Tensor) -> Tensor:
            return (x.float() * (1 + 1e-6 * torch.randn(x.shape, generator=noise))).to(x.dtype)

        self.generate(self.cache(still))
        other = evolve(self, layers=[(noisy(q), noisy(k), noisy(v)) for q, k, v in self.layers])
        other.generate(other.cache(moved))
        return not all_same(still.kept, moved.kept)

    @property
    def is_exact(self) -> bool:
        """Whether the policy's codec states that it is lossless."""
        codec, keys = self.planned.policy.codec, self.layers[0][1]
        return not bool(codec.error_bound(codec.encode(keys, "key"), "key").any())


@define(eq=False)
class Seen:
    """An observer that remembers what attention read and what was kept.

    Attributes:
        views: every view, with copies of its tensors (queries aside).
        kept: positions (B, H, keep) of the tokens that are kept of each.
    """

    views: list[CacheView] = field(factory=list)
    kept: list[Tensor] = field(factory=list)

    def __call__(self, view: CacheView, kept: Tensor | None) -> None:
        counts = None if view.counts is None else view.counts.clone()
        copies = {name: getattr(view, name).clone() for name in ("k", "v", "positions")}
        self.views.append(evolve(view, counts=counts, **copies))
        positions = copies["positions"].long()
        self.kept.append(positions if kept is None else positions.gather(2, kept))
