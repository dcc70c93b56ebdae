"""When memory runs out: one line that says what the cache was going to take, and what to do."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from scalekv_core.cli.loading import Job
from scalekv_core.errors import ScaleKVError
from scalekv_core.geometry import CacheGeometry, format_bytes
from scalekv_core.session import Session


class OutOfMemory(ScaleKVError):
    """The device has not enough memory for what was asked."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device, or the machine, had no memory left."""
    kinds = (MemoryError, getattr(torch, "OutOfMemoryError", torch.cuda.OutOfMemoryError))
    return isinstance(error, kinds) or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))


@contextlib.contextmanager
def naming_the_plan(
    session: Session | None, job: Job, geometry: CacheGeometry, *, remedy: str = "draw fewer images at once"
) -> Iterator[None]:
    """Says what the cache was going to take, and what to do, when memory runs out.

    Args:
        session: of the policy that draws; None if the unmodified model does.
        job, geometry: what is drawn.
        remedy: what to do.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        reason = str(error).splitlines()[0] if str(error) else "the machine has none left"
        needed = _needed(session, geometry.for_rows(job.rows))
        raise OutOfMemory(f"out of memory {needed}; {remedy} ({reason})") from error


def _needed(session: Session | None, geometry: CacheGeometry) -> str:
    if session is None:
        held = format_bytes(geometry.unmodified_bytes)
        return f"while the unmodified model drew {geometry.rows} rows, whose cache takes {held}"
    weighs = session.planned(geometry.schedule, rows=geometry.rows).footprint
    return (
        f"under policy {session.policy.name!r}, whose cache of {geometry.rows} rows is planned at "
        f"{format_bytes(weighs.most_planned)} and {format_bytes(weighs.scratch)} of scratch"
    )
