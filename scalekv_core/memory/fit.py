"""Whether a batch fits into memory, determined before anything is loaded or allocated."""

from __future__ import annotations

import contextlib

from scalekv_core.errors import ContractError
from scalekv_core.memory.batch import Batch
from scalekv_core.memory.bound import upper_bound
from scalekv_core.memory.free import check_free_memory
from scalekv_core.memory.need import baseline_need
from scalekv_core.memory.plan import MemoryPlan
from scalekv_core.memory.suggestions import Suggestions
from scalekv_core.planning.footprint import Footprint
from scalekv_core.planning.planner import Planned
from scalekv_core.plugins.registry import Registry
from scalekv_core.shapes.geometry import format_bytes, plural


def check_fits(plan: MemoryPlan, *, registry: Registry | None = None) -> None:
    """Refuses a batch that needs more memory than is free.

    Args:
        plan: of the batch.
        registry: whose codecs may be suggested; the installed plugins by default.

    Raises:
        InputError: it does not fit; says which part takes how much, and what would fit.
    """
    check_free_memory(
        plan.need.total,
        plan.memory,
        what=_batch_of(plan),
        parts=_parts(plan),
        suggestion=lambda: Suggestions(plan, registry=registry).sentence,
    )


def check_batch_fits(
    batch: Batch,
    planned: Planned,
    *,
    memory: int | None,
    registry: Registry | None = None,
) -> None:
    """As :func:`check_fits`, for a planned cache. No dry run where an upper bound fits, and no refusal if the free
    memory or the need of the model is unknown.

    Raises:
        InputError: as :func:`check_fits`.
    """
    if _surely_fits(batch, memory, planned.footprint):
        return
    if (plan := plan_if_possible(batch, planned, memory=memory)) is not None:
        check_fits(plan, registry=registry)


def check_baseline_fits(batch: Batch, *, memory: int | None, suggestion: str) -> None:
    """As :func:`check_fits`, for the unmodified model.

    Args:
        batch: what is generated.
        memory: bytes that are free; None if unknown.
        suggestion: what to do if it does not fit.

    Raises:
        InputError: it does not fit.
    """
    if memory is None or not batch.card.can_be_planned or _surely_fits(batch, memory):
        return
    need = baseline_need(batch)
    check_free_memory(
        need.total,
        memory,
        what=f"the unmodified model, which generates {plural(batch.images, 'image')},",
        parts=f"while {need.when}: {need.breakdown}",
        suggestion=lambda: suggestion,
    )


def plan_if_possible(batch: Batch, planned: Planned, *, memory: int | None) -> MemoryPlan | None:
    """The memory of a batch whose text encoder is freed before the first scale; None if the free memory is unknown, or
    the model or the policy does not run on tensors without values."""
    if memory is None or not batch.card.can_be_planned:
        return None
    with contextlib.suppress(ContractError):
        return MemoryPlan.of(batch, planned, memory=memory, keep_text_encoder=False)
    return None


def need_in_words(plan: MemoryPlan) -> str:
    """The batch, what it needs, what is free, and the parts, in one line."""
    free = "" if plan.memory is None else f" of {format_bytes(plan.memory)}"
    return f"{_batch_of(plan)} needs {format_bytes(plan.need.total)}{free} ({_parts(plan)})"


def _batch_of(plan: MemoryPlan) -> str:
    batch, planned = plan.batch, plan.planned
    images = plural(batch.images, "image")
    return f"a batch of {images} of {batch.model!r} under policy {planned.policy.name!r} at {planned.budget}"


def _parts(plan: MemoryPlan) -> str:
    return f"while {plan.need.when}: {plan.need.breakdown}"


def _surely_fits(batch: Batch, memory: int | None, footprint: Footprint | None = None) -> bool:
    """Whether even the upper bound fits."""
    most = None if memory is None else upper_bound(batch, footprint)
    return memory is not None and most is not None and most <= memory
