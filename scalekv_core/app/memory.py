"""The figures of the page: what an image will take, planned while the budget moves, and what it took."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from attrs import frozen

from scalekv_core.app.form import Request
from scalekv_core.errors import ContractError
from scalekv_core.memory.need import MemoryNeed
from scalekv_core.memory.plan import plan_batch
from scalekv_core.pipeline import loading
from scalekv_core.planning.planner import Planned, plan_policy
from scalekv_core.session.report import Report
from scalekv_core.shapes.geometry import format_bytes


@frozen(kw_only=True)
class Bar:
    """One bar of the figure.

    Attributes:
        name: unmodified, planned, resident or peak.
        nbytes: None before it is measured.
        share: of what the unmodified model holds, 1 is all.
        note: what the figure is.
    """

    name: str
    nbytes: int | None
    share: float
    note: str

    @property
    def text(self) -> str:
        """Bytes and share, as people read them."""
        if self.nbytes is None:
            return "after generating"
        return f"{format_bytes(self.nbytes)} · {100 * self.share:.1f} %"


@frozen(eq=False, kw_only=True)
class PlannedMemory:
    """What one image will take.

    Attributes:
        planned: the policy's plan for the cache.
        assumed: whether the drafters are assumed, not measured.
        need, unmodified: of the whole model, part by part; None where its family has no dry run.
    """

    planned: Planned
    assumed: bool
    need: MemoryNeed | None
    unmodified: MemoryNeed | None

    @property
    def sentence(self) -> str:
        """What the cache will hold, in one line."""
        weighs, geometry = self.planned.footprint, self.planned.geometry
        kept = max(self.planned.plan.slots().tolist()) / geometry.slots_per_token
        return (
            f"{format_bytes(weighs.most_planned)} of {format_bytes(weighs.unmodified)}: on average {kept:.4g} of "
            f"{geometry.schedule.last_history:,} tokens per head"
        )


def plan(request: Request, *, weights: Path | None = None) -> PlannedMemory:
    """What the image of a request will take; nothing is loaded or allocated.

    Args:
        request: which image, under which policy.
        weights: beside which an attention profile may lie.

    Raises:
        BudgetError, ProfileError, ContractError: the policy cannot be planned for this model at this budget.
    """
    batch, policy, budget = request.job.batch, request.policy, request.budget
    profile = loading.profile_of(batch, weights) if policy.needs_profile else None
    if batch.card.can_be_planned:
        with contextlib.suppress(ContractError):  # a part of the policy runs on real tensors only
            made = plan_batch(batch, policy, budget, profile=profile, keep_text_encoder=False)
            assumed = made.assumed is not None
            return PlannedMemory(planned=made.planned, assumed=assumed, need=made.need, unmodified=made.unmodified)
    planned = plan_policy(policy, batch.geometry, budget=budget, profile=profile, model=batch.model)
    return PlannedMemory(planned=planned, assumed=False, need=None, unmodified=None)


def bars(planned: Planned, report: Report | None = None) -> Sequence[Bar]:
    """Unmodified, planned, resident and peak bytes of the cache; without a report the last two are not measured yet."""
    weighs = planned.footprint
    image = None if report is None else report.images[-1]
    figures = [
        ("unmodified", weighs.unmodified, "all maps, at the end of the image"),
        ("planned", weighs.most_planned, "before anything is allocated"),
        ("resident", None if image is None else max(image.resident), "maximum between scales"),
        ("peak", None if image is None else image.peak, "maximum at any moment, with temporary buffers"),
    ]
    return [Bar(name=n, nbytes=b, share=(b or 0) / weighs.unmodified, note=note) for n, b, note in figures]
