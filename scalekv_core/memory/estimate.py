"""What a whole model will take while it draws a batch, before anything is allocated: weights, cache, activations, decoding.

The cache's figures are exact (see :mod:`scalekv_core.planning.footprint`). The others are counted on the meta device (see
:mod:`scalekv_core.memory.dry_run`), where nobody has to keep a formula true.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from attrs import evolve, field, frozen
from attrs.validators import ge, instance_of
from numpy.typing import NDArray

from scalekv_core.contracts.policy import Policy
from scalekv_core.contracts.profile import AttentionProfile
from scalekv_core.errors import InputError
from scalekv_core.memory.attention_dry_run import attending_bytes
from scalekv_core.memory.dry_run import LAYERS, DryRun, decoding_bytes, dry_run, weight_bytes
from scalekv_core.models.bare_model import BareModel
from scalekv_core.models.card import ModelCard
from scalekv_core.planning.assumed import assumed_profile, default_drafters
from scalekv_core.planning.budget import Budget, read_bytes
from scalekv_core.planning.footprint import layer_bytes
from scalekv_core.planning.planner import Planned, plan_policy
from scalekv_core.plugins.registry import Registry, shared_registry
from scalekv_core.shapes.geometry import CacheGeometry, format_bytes


@frozen(kw_only=True)
class Batch:
    """What is to be drawn at once.

    Attributes:
        model: the model's name.
        card: what is known of it.
        images: how many.
        guidance: whether each takes two rows.
        aspect, size: of the images; None is the model's own.
        dtype: in which the model is run; None is its own.
        random_weights: whether nothing is read, a prompt neither.
    """

    model: str
    card: ModelCard
    images: int = field(default=1, validator=[instance_of(int), ge(1)])
    guidance: bool = True
    aspect: str | None = None
    size: str | None = None
    dtype: torch.dtype | None = None
    random_weights: bool = False

    @property
    def geometry(self) -> CacheGeometry:
        """The shape of its cache.

        Raises:
            InputError: the model generates no such images.
        """
        try:
            one_row = self.card.shape(aspect=self.aspect, size=self.size)
        except InputError as error:
            raise InputError(f"model {self.model!r} generates no such images: {error}") from error
        shape = one_row.for_rows(self.images * (1 + self.guidance))
        return shape if self.dtype is None else evolve(shape, dtype=self.dtype)

    @property
    def weights(self) -> Mapping[str, int]:
        """{part: bytes}, without the text encoder."""
        one, two = (weight_bytes(bare) for bare in _first_layers(evolve(self, images=1), 1, 2))
        further = self.geometry.layers - 1
        return {part: one[part] + further * (two[part] - one[part]) for part in one}

    @property
    def text_encoder(self) -> int:
        """Bytes of its weights; none where weights are random, which no encoder goes with."""
        return 0 if self.random_weights else self.card.text_encoder_bytes(self.geometry.dtype)

    @property
    def dry_run(self) -> DryRun:
        """What it takes beside weights and cache."""
        one = _dry_run(evolve(self, images=1))
        return one if self.images == 1 else one.and_so_on(_dry_run(evolve(self, images=2)), self.images)

    @property
    def decoding(self) -> int:
        """The most at one moment while the images are decoded, with what is left of drawing."""
        return self.dry_run.kept + _decoding(self)


@functools.lru_cache(maxsize=64)
def _first_layers(batch: Batch, *layers: int) -> tuple[BareModel, ...]:
    """The model on the meta device with so many of its layers, all of which are alike."""
    return tuple(
        batch.card.bare(aspect=batch.aspect, size=batch.size, layers=number, dtype=batch.dtype) for number in layers
    )


@functools.lru_cache(maxsize=64)
def _dry_run(batch: Batch) -> DryRun:
    """Of one image or of two; each further image takes as much as the second did."""
    (bare,) = _first_layers(evolve(batch, images=1), _few(batch))
    return dry_run(bare, batch.images, guidance=batch.guidance)


@functools.lru_cache(maxsize=256)
def _decoding(batch: Batch) -> int:
    (bare,) = _first_layers(evolve(batch, images=1), _few(batch))
    return decoding_bytes(bare, batch.images)


def _few(batch: Batch) -> int:
    return min(LAYERS, batch.geometry.layers)


@frozen(kw_only=True)
class Need:
    """Bytes of a batch under one way to hold the cache.

    Attributes:
        weights: {part: bytes} of the model.
        text_encoder: bytes of its weights.
        keeps_text_encoder: whether it stays after it has read the prompts.
        cache: the most that is held between two maps, without what a codec keeps in the host's memory.
        scratch: of the buffers that history is read into.
        attending: the most that one layer takes while it attends, above what it held before: its history and the new map side
            by side, what the policy chooses by, copies.
        activations: the most that the model takes beside them while it draws.
        decoding: the same while the images are decoded; the cache is gone by then.
        drawing: the most at one moment while drawing, weights left out.
        scale: in which scale that is.
    """

    weights: Mapping[str, int]
    text_encoder: int
    keeps_text_encoder: bool
    cache: int
    scratch: int
    attending: int
    activations: int
    decoding: int
    drawing: int
    scale: int

    @property
    def moments(self) -> dict[str, int]:
        """{when: the most at one moment}."""
        weights = sum(self.weights.values())
        stays = weights + self.text_encoder * self.keeps_text_encoder
        return {
            "reading the prompts": weights + self.text_encoder,
            f"drawing scale {self.scale}": stays + self.drawing,
            "decoding the images": stays + self.decoding,
        }

    @property
    def total(self) -> int:
        """The most at one moment."""
        return max(self.moments.values())

    @property
    def when(self) -> str:
        """When that is."""
        return max(self.moments, key=lambda when: self.moments[when])

    @property
    def breakdown(self) -> str:
        """Its parts in one line."""
        parts = [*self.weights.items(), ("text encoder", self.text_encoder), ("cache", self.cache)]
        parts += [("scratch", self.scratch), ("a layer attending", self.attending)]
        parts += [("activations", self.activations), ("decoding", self.decoding)]
        return ", ".join(f"{name} {format_bytes(count)}" for name, count in parts if count)

    def as_dict(self) -> dict[str, Any]:
        """As plain values."""
        names = ("text_encoder", "cache", "scratch", "attending", "activations", "decoding", "total", "when")
        return {"weights": dict(self.weights), **{name: getattr(self, name) for name in names}}


@frozen(eq=False, kw_only=True)
class MemoryPlan:
    """A batch under a policy, worked out without building the model.

    Attributes:
        batch: what is drawn.
        planned: the policy's plan for the cache.
        profile: what was measured, if the policy needs it.
        assumed: the drafters that were assumed where it needs one and there is none; None otherwise.
        memory: bytes that there are; None if nobody said.
        keeps_text_encoder: whether it stays while images are drawn.
        need: with the policy.
        unmodified: without one, as the published code does it: the text encoder stays.
    """

    batch: Batch
    planned: Planned
    profile: AttentionProfile | None
    assumed: tuple[int, ...] | None
    memory: int | None
    keeps_text_encoder: bool
    need: Need
    unmodified: Need

    @property
    def fits(self) -> bool:
        """Whether there is enough memory; true if nobody said how much there is."""
        return self.memory is None or self.need.total <= self.memory

    def again(
        self,
        *,
        batch: Batch | None = None,
        policy: Policy | None = None,
        budget: Budget | None = None,
        keep_text_encoder: bool | None = None,
    ) -> MemoryPlan:
        """The same with something changed.

        Raises:
            InputError, BudgetError, ProfileError: it cannot be done.
        """
        return plan_batch(
            batch or self.batch,
            policy or self.planned.policy,
            budget or self.planned.budget,
            memory=self.memory,
            keep_text_encoder=self.keeps_text_encoder if keep_text_encoder is None else keep_text_encoder,
            profile=self.profile,
        )

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
    dtype: torch.dtype | None = None,
    memory: str | int | None = None,
    keep_text_encoder: bool = True,
    profile: AttentionProfile | None = None,
    registry: Registry | None = None,
    **parts: Any,
) -> MemoryPlan:
    """What a model takes while it draws a batch under a policy; nothing is allocated.

    Args:
        model: its name.
        policy, budget: as for :func:`scalekv_core.compress`.
        images: drawn at once.
        guidance: each image takes two rows.
        aspect, size: such as "1:1" and "1M"; None is the model's own.
        dtype: in which the model is run; None is its own.
        memory: what there is, such as "24GiB", or in bytes.
        keep_text_encoder: False if prompts are encoded first, and the encoder is gone when images are drawn.
        profile: what calibration measured. Where a policy needs one and there is none, every sixteenth layer is assumed
            to be a drafter: that changes which layers hold much, and hardly what they hold together.
        registry: where names are looked up; the installed plugins by default.
        **parts: ``options``, ``classifier``, ``allocator``, ``selector``, ``merger``, ``codec``, as for
            :func:`scalekv_core.compress`.

    Raises:
        UnknownName, InputError, BudgetError, ProfileError: what was asked cannot be done.

    >>> plan = plan_memory("var-d16", "uniform", "10%", images=8, memory="24GiB")
    >>> plan.fits, format_bytes(plan.need.cache), format_bytes(plan.unmodified.cache)
    (True, '84.7 MiB', '1.3 GiB')
    """
    registry = registry or shared_registry()
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
    """The same, of values instead of names."""
    geometry = batch.geometry
    profile = profile or (batch.card.profile_of(geometry.schedule) if policy.needs_profile else None)
    assumed = default_drafters(geometry.layers) if policy.needs_profile and profile is None else None
    known = profile if assumed is None else assumed_profile(geometry, assumed)
    name = None if assumed is not None else batch.model
    ahead = policy.codec.leaves_device  # it is a device's memory that is planned, so there is one beside the host's
    planned = plan_policy(policy, geometry, budget=budget, profile=known, model=name, ahead=ahead)
    return MemoryPlan(
        batch=batch,
        planned=planned,
        profile=profile,
        assumed=assumed,
        memory=memory,
        keeps_text_encoder=keep_text_encoder,
        need=_need(batch, planned_course(planned), keep_text_encoder),
        unmodified=_need(batch, unmodified_course(geometry), True),
    )


@frozen(eq=False, kw_only=True)
class Course:
    """Bytes of a cache, layer by layer, while an image is drawn.

    Attributes:
        held: [K, L] of each layer after each scale.
        extra: [K, L] while a layer attends, above what it held before.
        scratch: shared by all layers, from first to last.
        most: that is held between two maps.
    """

    held: NDArray[np.int64]
    extra: NDArray[np.int64]
    scratch: int
    most: int


def planned_course(planned: Planned) -> Course:
    """That of a plan.

    Raises:
        ContractError: a part of the policy does not run on tensors without values.
    """
    held = layer_bytes(planned.plan, planned.policy, planned.geometry, on_device=True)
    return Course(
        held=held,
        extra=attending_bytes(planned),
        scratch=planned.footprint.scratch,
        most=int(held.sum(axis=1).max()),
    )


def unmodified_course(geometry: CacheGeometry) -> Course:
    """That of a model that concatenates: old and new keys and values of a layer side by side, and then the keys once more
    in the dtype that attention reads, if they are stored in another."""
    of_token = geometry.unmodified_token_bytes // geometry.layers
    held = np.repeat(np.asarray(geometry.schedule.seen)[:, None] * of_token, geometry.layers, axis=1)
    before = np.vstack([np.zeros_like(held[:1]), held[:-1]])
    cast = geometry.unmodified_key_dtype not in (None, geometry.dtype)
    of_keys = cast * geometry.token_bytes // geometry.layers // 2
    extra = np.maximum(held, held - before + np.asarray(geometry.schedule.seen)[:, None] * of_keys)
    return Course(held=held, extra=extra, scratch=0, most=geometry.unmodified_bytes)


def whole_need(batch: Batch) -> Need:
    """What it takes to draw with the whole cache in scalekv's own code, which keeps keys in the dtype that attention reads,
    and lets the text encoder go."""
    course = unmodified_course(evolve(batch.geometry, unmodified_key_dtype=None))
    return _need(batch, course, keeps_text_encoder=False)


def _need(batch: Batch, course: Course, keeps_text_encoder: bool) -> Need:
    beside = batch.dry_run
    moments = _moments(course, beside)
    return Need(
        weights=batch.weights,
        text_encoder=batch.text_encoder,
        keeps_text_encoder=keeps_text_encoder,
        cache=course.most,
        scratch=course.scratch,
        attending=int(course.extra.max()),
        activations=beside.drawing,
        decoding=batch.decoding,
        drawing=int(moments.max()),
        scale=int(moments.argmax()),
    )


def _moments(course: Course, beside: DryRun) -> NDArray[np.int64]:
    """[K] the most at one moment of each scale: before the first layer, in one, between two, after the last."""
    held, (opening, attending, between, closing) = course.held, beside.stages
    before = np.vstack([np.zeros_like(held[:1]), held[:-1]])
    so_far = np.cumsum(held, axis=1) + np.cumsum(before[:, ::-1], axis=1)[:, ::-1] - before  # after each layer
    begun = so_far - held + before  # before it
    stages = [
        before.sum(axis=1) + opening,
        (begun + course.extra).max(axis=1) + attending,
        so_far[:, :-1].max(axis=1, initial=0) + between,
        held.sum(axis=1) + closing,
    ]
    moments: NDArray[np.int64] = np.max(stages, axis=0) + course.scratch
    return moments
