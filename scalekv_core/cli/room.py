"""When memory runs out: one line that says what the cache was going to take, and what to do."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch

from scalekv_core.cli.loading import Job, model_card
from scalekv_core.errors import ScaleKVError
from scalekv_core.geometry import CacheGeometry, format_bytes
from scalekv_core.image_model import ImageModel
from scalekv_core.memory import available_memory, resident_memory
from scalekv_core.planner import Planned
from scalekv_core.profile import AttentionProfile
from scalekv_core.session import Session


class OutOfMemory(ScaleKVError):
    """The device has not enough memory for what was asked."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device, or the machine, had no memory left."""
    kinds = (MemoryError, getattr(torch, "OutOfMemoryError", torch.cuda.OutOfMemoryError))
    return isinstance(error, kinds) or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))


@contextlib.contextmanager
def naming_the_plan(
    session: Session | None,
    job: Job,
    geometry: CacheGeometry,
    *,
    remedy: str = "draw fewer images at once",
    fitting: Callable[[], str | None] = lambda: None,
) -> Iterator[None]:
    """Says what the cache was going to take, and what to do, when memory runs out.

    Args:
        session: of the policy that draws; None if the unmodified model does.
        job, geometry: what is drawn.
        remedy: what to do.
        fitting: says what would fit, if that can be told; see `what_fits`.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        reason = str(error).splitlines()[0] if str(error) else "the machine has none left"
        needed = _needed(session, geometry.for_rows(job.rows))
        says = f"; {told}" if (told := fitting()) else ""
        raise OutOfMemory(f"out of memory {needed}{says}; {remedy} ({reason})") from error


def _needed(session: Session | None, geometry: CacheGeometry) -> str:
    if session is None:
        held = format_bytes(geometry.unmodified_bytes)
        return f"while the unmodified model drew {geometry.rows} rows, whose cache takes {held}"
    weighs = session.planned(geometry.schedule, rows=geometry.rows).footprint
    return (
        f"under policy {session.policy.name!r}, whose cache of {geometry.rows} rows is planned at "
        f"{format_bytes(weighs.most_planned)} and {format_bytes(weighs.scratch)} of scratch"
    )


def what_fits(model: ImageModel, job: Job, planned: Planned, profile: AttentionProfile | None) -> str | None:
    """What a batch takes part by part, and the largest budget that would fit where the model runs.

    None if the model's family does not say what it takes without its weights, or nobody can be asked what there is.
    """
    from scalekv_core.memory_plan import Batch, plan_batch
    from scalekv_core.remedies import most_budget

    room = memory_of(next(model.module.parameters()).device)
    if room is None:
        return None
    batch = Batch(
        model=model.name,
        card=model_card(model.name),
        images=len(job.prompts),
        guidance=job.rows_each > 1,
        aspect=model.aspect,
        size=model.size,
        dtype=planned.geometry.dtype,
    )
    try:
        plan = plan_batch(
            batch,
            planned.policy,
            planned.budget,
            memory=room,
            keep_text_encoder=False,
            profile=profile or model.profile,
        )
    except ScaleKVError:
        return None
    takes = f"in all it takes {format_bytes(plan.need.total)} of {format_bytes(room)} ({plan.breakdown})"
    if not planned.policy.allocator.spends_all:
        return takes
    budget = most_budget(plan)
    fits = "no budget fits" if budget is None else f"the largest budget that fits is {str(budget)!r}"
    return f"{takes}; {fits}"


def memory_of(device: torch.device) -> int | None:
    """Bytes that are free on a device or in use by this process; None where nobody can be asked."""
    free = available_memory(device)
    if free is None:
        return None
    return free + (torch.cuda.memory_reserved(device) if device.type == "cuda" else resident_memory())
