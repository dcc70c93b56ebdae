"""Whether a batch has room, found out before anything is loaded; and when memory runs out all the same: one line that says
what was going to be taken, and what to do."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch

from scalekv_core.cli.installed import the_registry
from scalekv_core.cli.jobs import Job
from scalekv_core.contracts.profile import AttentionProfile
from scalekv_core.errors import ContractError, InputError, ScaleKVError
from scalekv_core.memory.bound import upper_bound
from scalekv_core.memory.estimate import Batch, MemoryPlan, plan_batch, whole_need
from scalekv_core.memory.meter import available_memory, resident_memory
from scalekv_core.memory.suggestions import check_fits, what_it_takes, what_would_fit
from scalekv_core.planning.footprint import Footprint
from scalekv_core.planning.planner import Planned
from scalekv_core.shapes.geometry import format_bytes, plural


class OutOfMemory(ScaleKVError):
    """The device has not enough memory for what was asked."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device, or the machine, had no memory left."""
    kinds = (MemoryError, getattr(torch, "OutOfMemoryError", torch.cuda.OutOfMemoryError))
    return isinstance(error, kinds) or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))


@contextlib.contextmanager
def naming_the_plan(
    job: Job, planned: Planned | None, *, suggestion: str = "draw fewer images at once", told: Callable[[], str] = str
) -> Iterator[None]:
    """Says what the cache was going to take, and what to do, when memory runs out.

    Args:
        job: what is drawn.
        planned: under which plan; None if the unmodified model draws.
        suggestion: what to do.
        told: asked for what else is known then.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        reason = str(error).splitlines()[0] if str(error) else "the machine has none left"
        said = [f"out of memory {_drawing(job, planned)}", told(), f"{suggestion} ({reason})"]
        raise OutOfMemory("; ".join(filter(None, said))) from error


def _drawing(job: Job, planned: Planned | None) -> str:
    if planned is None:
        held = format_bytes(job.batch.geometry.unmodified_bytes)
        return f"while the unmodified model drew {plural(job.rows, 'row')}, whose cache takes {held}"
    weighs = planned.footprint
    return (
        f"under policy {planned.policy.name!r}, whose cache of {plural(job.rows, 'row')} is planned at "
        f"{format_bytes(weighs.most_planned)} and {format_bytes(weighs.scratch)} of scratch"
    )


def told_by_plan(job: Job, planned: Planned, profile: AttentionProfile | None, device: torch.device) -> str:
    """What the whole batch takes part by part, and what would fit; nothing where nobody can tell."""
    plan = plan_here(job, planned, profile, memory_of(device))
    return "" if plan is None else f"{what_it_takes(plan)}; {what_would_fit(plan, registry=the_registry())}"


def check_room(job: Job, planned: Planned, profile: AttentionProfile | None, memory: int | None) -> None:
    """Refuses a batch that is larger than the memory there is; not where nobody can tell. There is no dry run where an upper
    bound fits.

    Raises:
        InputError: says what takes how much, and what would fit.
    """
    if _surely_fits(job.batch, memory, planned.footprint):
        return
    if (plan := plan_here(job, planned, profile, memory)) is not None:
        check_fits(plan, registry=the_registry())


def check_room_of_whole(job: Job, memory: int | None) -> None:
    """The same for the unmodified model, which draws beside what is compressed.

    Raises:
        InputError: says what takes how much; what is compressed fits.
    """
    batch = job.batch
    if memory is None or not batch.card.can_be_planned or _surely_fits(batch, memory):
        return
    need = whole_need(batch)
    if need.total > memory:
        raise InputError(
            f"to draw {plural(batch.images, 'image')} with the whole cache too, for comparison, takes "
            f"{format_bytes(need.total)} of {format_bytes(memory)} while {need.when} ({need.breakdown}); what is compressed "
            "fits: leave the comparison out with --no-baseline"
        )


def _surely_fits(batch: Batch, memory: int | None, footprint: Footprint | None = None) -> bool:
    """Whether even the upper bound fits."""
    most = upper_bound(batch, footprint)
    return memory is not None and most is not None and most <= memory


def plan_here(job: Job, planned: Planned, profile: AttentionProfile | None, memory: int | None) -> MemoryPlan | None:
    """The plan of the whole model; None if its card does not say how it runs, the policy does not run without values, or nobody
    says what memory there is.

    An encoder of text that is large enough to matter leaves before the first map is drawn.
    """
    if memory is None or not job.batch.card.can_be_planned:
        return None
    with contextlib.suppress(ContractError):
        return plan_batch(
            job.batch, planned.policy, planned.budget, memory=memory, keep_text_encoder=False, profile=profile
        )
    return None


def memory_of(device: torch.device) -> int | None:
    """Bytes that are free on a device or in use by this process; None where nobody can be asked."""
    free = available_memory(device)
    if free is None:
        return None
    return free + (torch.cuda.memory_reserved(device) if device.type == "cuda" else resident_memory())
