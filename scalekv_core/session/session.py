"""A session gives an attached model its caches, from ``with compress(...)`` to the end of the block."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import torch
from attrs import evolve
from torch import nn

from scalekv_core.cache.clock import Clock
from scalekv_core.cache.kv_cache import Observer
from scalekv_core.cache.prefetch import reads_ahead
from scalekv_core.contracts.adapter import ModelAdapter
from scalekv_core.contracts.policy import Policy
from scalekv_core.contracts.tables import Tables
from scalekv_core.errors import InputError, SessionError
from scalekv_core.planning.budget import Budget
from scalekv_core.planning.planner import Planned, classify
from scalekv_core.planning.plans import Plans
from scalekv_core.planning.profiles import GivenProfiles, Profiles
from scalekv_core.session.image_cache import ImageCache
from scalekv_core.session.report import ImageReport, Report
from scalekv_core.shapes.geometry import CacheGeometry
from scalekv_core.shapes.schedule import ScaleSchedule

_CPU = torch.device("cpu")


class Session:
    """Compression of one model while it is attached. Made by :func:`~scalekv_core.session.compress.compress`."""

    def __init__(
        self,
        model: nn.Module,
        adapter: ModelAdapter,
        policy: Policy | Planned,
        *,
        budget: str | Budget | None = None,
        profile: GivenProfiles = None,
        name: str | None = None,
        check: bool = False,
        clock: Clock | None = None,
        observer: Observer | None = None,
        measure_peak: bool = False,
    ) -> None:
        self.geometry = adapter.geometry(model)
        self._plans = _plans_of(policy, budget, profile, name, self.geometry)
        self.policy = self._plans.policy
        self._tables = Tables()
        self.cache_options: dict[str, Any] = {
            "check": check, "clock": clock, "observer": observer, "tables": self._tables,
        }  # fmt: skip
        self.measure_peak = measure_peak
        self._images: list[ImageReport] = []
        self.lock = threading.RLock()
        self._open: ImageCache | None = None
        self._closed = False
        if isinstance(policy, Policy):
            self._refuse_early(schedule_varies=adapter.schedule_varies)

    def _refuse_early(self, *, schedule_varies: bool) -> None:
        """Refuses what cannot work under any schedule and batch, before anything is generated."""
        plans = self._plans
        if schedule_varies:
            plans.profiles.check(self.policy, self.geometry, plans.model)
        elif plans.budget.unit == "bytes":  # what bytes buy depends on the batch, which only the first map tells
            classify(self.policy, self.geometry, plans.profiles.for_image(self.policy, self.geometry, plans.model))
        else:
            plans.of(self.geometry)

    def planned(
        self, schedule: ScaleSchedule, *, rows: int = 1, dtype: torch.dtype | None = None, device: torch.device = _CPU
    ) -> Planned:
        """The plan for images of this schedule and batch on this device."""
        geometry = evolve(self.geometry, schedule=schedule, rows=rows, dtype=dtype or self.geometry.dtype)
        planned = self._plans.of(geometry)
        return planned.read_ahead(True) if reads_ahead(self.policy.codec, device) else planned

    def new_cache(self, schedule: ScaleSchedule | Sequence[tuple[int, int, int]]) -> ImageCache:
        """The cache of one image (or batch); closes a cache that a failed image left open."""
        if self._closed:
            raise SessionError(
                f"the block in which this model had policy {self.policy.name!r} is over, and a copy or a part of it "
                "still generates; call compress with that model"
            )
        if not isinstance(schedule, ScaleSchedule):
            schedule = ScaleSchedule(schedule)
        with self.lock:
            self.discard()
            self._open = ImageCache(self, schedule)
            return self._open

    def report(self) -> Report:
        """What each image held.

        Raises:
            SessionError: no image was finished.
        """
        if not self._images:
            raise SessionError(f"no image was completed under policy {self.policy.name!r}; there is nothing to report")
        return Report(policy=self.policy, images=tuple(self._images))

    def discard(self) -> None:
        """Drops the cache of an image that was not finished."""
        if self._open is not None:
            self._open.discard()
            self._open = None

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Refuses copies: a model that is copied with its session would stay compressed after the block."""
        raise SessionError(
            f"a model cannot be copied or saved while policy {self.policy.name!r} is attached to it; do it outside of the block"
        )

    def close(self) -> None:
        """Ends the session: the figures remain, and the memory is freed."""
        self._closed = True
        self.discard()
        self._tables.clear()

    def check_used(self) -> None:
        """Raises SessionError if the policy never ran, or evicted nothing although its plan says so."""
        if not self._images:
            raise SessionError(
                f"policy {self.policy.name!r} was attached, but no image was completed inside the block; "
                "was another model instance called?"
            )
        for image in self._images:
            if image.planned.plan.drops and not image.dropped:
                raise SessionError(
                    f"policy {self.policy.name!r} should have dropped tokens under {image.planned.budget} and dropped none"
                )

    def finish(self, image: ImageReport) -> None:
        self._images.append(image)
        self._open = None


def _plans_of(
    policy: Policy | Planned,
    budget: str | Budget | None,
    profile: GivenProfiles,
    name: str | None,
    geometry: CacheGeometry,
) -> Plans:
    if isinstance(policy, Policy):
        wanted = Budget.parse(policy.budget if budget is None else budget)
        return Plans(policy, wanted, profiles=Profiles.of(profile), model=name)
    if budget is not None:
        raise InputError(f"a plan has its budget ({policy.budget}); leave out budget={budget!r}")
    mine, theirs = (f"{g.layers} layers of {g.heads} heads of width {g.head_dim}" for g in (policy.geometry, geometry))
    if mine != theirs:
        raise SessionError(f"the plan is for {mine}; the model has {theirs}")
    return Plans.beginning_with(
        policy, profiles=Profiles.of(policy.profile if profile is None else profile), model=name
    )
