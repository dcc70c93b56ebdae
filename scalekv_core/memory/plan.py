"""The memory of a batch under a policy, planned before anything is allocated."""

from __future__ import annotations

from typing import Any

import torch
from attrs import frozen

from scalekv_core.contracts.policy import Policy
from scalekv_core.contracts.profile import AttentionProfile
from scalekv_core.memory.batch import Batch
from scalekv_core.memory.cache_bytes import CacheBytes
from scalekv_core.memory.need import MemoryNeed, published_need
from scalekv_core.models.card import ModelCard
from scalekv_core.planning.assumed import assumed_profile, default_drafters
from scalekv_core.planning.budget import Budget, read_bytes
from scalekv_core.planning.planner import Planned, plan_policy
from scalekv_core.plugins.registry import Registry, shared_registry
from scalekv_core.shapes.values import check_whole


@frozen(eq=False, kw_only=True)
class MemoryPlan:
    """A batch under a policy, planned without building the model.

    Attributes:
        batch: what is generated.
        planned: the policy's plan for the cache.
        assumed: the drafters that were assumed where it needs one and there is none; None otherwise.
        memory: bytes that are free; None if unknown.
        keeps_text_encoder: whether the text encoder stays in memory while images are generated.
        need: of the batch under the policy.
        unmodified: of the published code, in which the text encoder stays.
    """

    batch: Batch
    planned: Planned
    assumed: tuple[int, ...] | None
    memory: int | None
    keeps_text_encoder: bool
    need: MemoryNeed
    unmodified: MemoryNeed

    @classmethod
    def of(
        cls,
        batch: Batch,
        planned: Planned,
        *,
        memory: int | None,
        keep_text_encoder: bool,
        assumed: tuple[int, ...] | None = None,
    ) -> MemoryPlan:
        """The memory of a batch whose cache is planned already.

        Raises:
            ContractError: a part of the policy does not run on tensors without values.
        """
        return cls(
            batch=batch,
            planned=planned,
            assumed=assumed,
            memory=memory,
            keeps_text_encoder=keep_text_encoder,
            need=MemoryNeed.of(batch, CacheBytes.of_plan(planned), keeps_text_encoder=keep_text_encoder),
            unmodified=published_need(batch),
        )

    @property
    def fits(self) -> bool:
        """Whether the free memory is enough; true if it is unknown."""
        return self.memory is None or self.need.total <= self.memory

    def replanned(
        self,
        *,
        batch: Batch | None = None,
        policy: Policy | None = None,
        budget: Budget | None = None,
        keep_text_encoder: bool | None = None,
    ) -> MemoryPlan:
        """The plan with these arguments changed.

        Raises:
            InputError, BudgetError, ProfileError: it cannot be planned.
        """
        batch = batch or self.batch
        same_schedule = batch.geometry.schedule == self.planned.plan.schedule
        return plan_batch(
            batch,
            policy or self.planned.policy,
            budget or self.planned.budget,
            memory=self.memory,
            keep_text_encoder=self.keeps_text_encoder if keep_text_encoder is None else keep_text_encoder,
            profile=self.planned.profile if same_schedule and self.assumed is None else None,
        )

    again = replanned  # its name until 0.1; for one version

    def as_dict(self) -> dict[str, Any]:
        """As plain values."""
        geometry = self.batch.geometry
        return {
            "model": self.batch.model,
            "maps": str(geometry.schedule),
            "images": self.batch.images,
            "rows": geometry.rows,
            "dtype": str(geometry.dtype).removeprefix("torch."),
            "policy": self.planned.policy.name,
            "budget": str(self.planned.budget),
            "assumed_drafters": None if self.assumed is None else list(self.assumed),
            "planned": self.need.as_dict(),
            "unmodified": self.unmodified.as_dict(),
            "memory": self.memory,
            "fits": self.fits,
        }


def plan_memory(
    model: str,
    policy: str | Policy = "scalekv",
    budget: str | Budget | None = None,
    *,
    images: int = 1,
    guidance: bool = True,
    aspect: str | None = None,
    size: str | None = None,
    dtype: str | torch.dtype | None = None,
    memory: str | int | None = None,
    keep_text_encoder: bool = True,
    profile: AttentionProfile | None = None,
    registry: Registry | None = None,
    **parts: Any,
) -> MemoryPlan:
    """What a model needs while it generates a batch under a policy; nothing is allocated.

    Args:
        model: its name.
        policy, budget: as for :func:`scalekv_core.compress`.
        images: generated at once.
        guidance: each image takes two rows.
        aspect, size: such as "1:1" and "1M"; None is the model's own.
        dtype: in which the model runs, also by name; None is its own.
        memory: how much is free, such as "24GiB", or in bytes.
        keep_text_encoder: False if prompts are encoded first and the encoder has left when images are generated.
        profile: what calibration measured. If a policy needs a profile and there is none, every sixteenth layer is assumed to
            be a drafter: that changes which layers hold much, and hardly what they hold together.
        registry: where names are looked up; the installed plugins by default.
        **parts: ``options``, ``classifier``, ``allocator``, ``selector``, ``merger``, ``codec``, as for
            :func:`scalekv_core.compress`.

    Raises:
        UnknownName, InputError, BudgetError, ProfileError: what was asked cannot be done.

    >>> from scalekv_core.shapes.geometry import format_bytes
    >>> plan = plan_memory("var-d16", "uniform", "10%", images=8, memory="24GiB")
    >>> plan.fits, format_bytes(plan.need.cache), format_bytes(plan.unmodified.cache)
    (True, '84.7 MiB', '1.3 GiB')
    """
    registry = registry or shared_registry()
    if memory is not None and not isinstance(memory, str):
        check_whole(memory, "a plan", "memory", least=0)
    card: ModelCard = registry.make("model", model)
    return plan_batch(
        Batch(model=model, card=card, images=images, guidance=guidance, aspect=aspect, size=size, dtype=dtype),
        registry.policy(policy, **parts),
        budget,
        memory=read_bytes(memory) if isinstance(memory, str) else memory,
        keep_text_encoder=keep_text_encoder,
        profile=profile,
    )


def plan_batch(
    batch: Batch,
    policy: Policy,
    budget: str | Budget | None = None,
    *,
    memory: int | None = None,
    keep_text_encoder: bool = True,
    profile: AttentionProfile | None = None,
) -> MemoryPlan:
    """As :func:`plan_memory`, from values instead of names."""
    geometry = batch.geometry
    if profile is None and policy.needs_profile:
        profile = batch.card.profile_of(geometry.schedule)
    assumed = default_drafters(geometry.layers) if policy.needs_profile and profile is None else None
    known = profile if assumed is None else assumed_profile(geometry, assumed)
    name = None if assumed is not None else batch.model
    planned = plan_policy(policy, geometry, budget=budget, profile=known, model=name)
    return MemoryPlan.of(batch, planned, memory=memory, keep_text_encoder=keep_text_encoder, assumed=assumed)
