"""When memory runs out all the same: one line that says what was planned and what to do."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch

from scalekv_core.errors import ScaleKVError, first_line
from scalekv_core.memory import free
from scalekv_core.memory.fit import need_in_words, plan_if_possible
from scalekv_core.memory.suggestions import Suggestions
from scalekv_core.pipeline.job import Job
from scalekv_core.planning.planner import Planned
from scalekv_core.plugins.registry import Registry
from scalekv_core.shapes.geometry import format_bytes, plural


class OutOfMemory(ScaleKVError):
    """The device has not enough memory for what was asked."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device, or the machine, had no memory left."""
    kinds = (MemoryError, getattr(torch, "OutOfMemoryError", torch.cuda.OutOfMemoryError))
    return isinstance(error, kinds) or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))


@contextlib.contextmanager
def explaining_out_of_memory(
    job: Job,
    planned: Planned | None,
    *,
    suggestion: str = "generate fewer images at once",
    details: Callable[[], str] = str,
) -> Iterator[None]:
    """If memory runs out inside, the error says what the cache was planned to take and what to do.

    Args:
        job: what is generated.
        planned: under which plan; None for the unmodified model.
        suggestion: what to do.
        details: called then; says more.

    Raises:
        OutOfMemory: memory ran out.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        reason = first_line(error, "the machine has none left")
        parts = [f"out of memory {_cache_of(job, planned)}", details(), f"{suggestion} ({reason})"]
        raise OutOfMemory("; ".join(filter(None, parts))) from error


def _cache_of(job: Job, planned: Planned | None) -> str:
    if planned is None:
        held = format_bytes(job.batch.geometry.unmodified_bytes)
        return f"while the unmodified model generated {plural(job.rows, 'row')}, whose cache takes {held}"
    weighs = planned.footprint
    return (
        f"under policy {planned.policy.name!r}, whose cache of {plural(job.rows, 'row')} is planned at "
        f"{format_bytes(weighs.most_planned)} and {format_bytes(weighs.scratch)} of scratch"
    )


def need_and_suggestions(job: Job, planned: Planned, device: torch.device, registry: Registry | None) -> str:
    """What the whole batch needs part by part, and what would fit; empty if that is unknown."""
    plan = plan_if_possible(job.batch, planned, memory=free.memory_for_process(device))
    return "" if plan is None else f"{need_in_words(plan)}; {Suggestions(plan, registry=registry).sentence}"
