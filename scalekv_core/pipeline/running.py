"""Running a job on a loaded model: unmodified or under a plan, with one line that helps if memory runs out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from scalekv_core.contracts.policy import Policy
from scalekv_core.contracts.profile import AttentionProfile
from scalekv_core.memory.fit import check_batch_fits
from scalekv_core.models.image_model import Generation, ImageModel
from scalekv_core.pipeline.job import Job
from scalekv_core.pipeline.out_of_memory import explaining_out_of_memory, need_and_suggestions
from scalekv_core.planning.budget import Budget
from scalekv_core.planning.planner import Planned, plan_policy
from scalekv_core.plugins.registry import Registry
from scalekv_core.session.compress import compress
from scalekv_core.session.session import Session


def plan_job(
    job: Job,
    policy: Policy,
    budget: str | Budget | None,
    profile: AttentionProfile | None,
    *,
    memory: int | None,
    registry: Registry | None = None,
) -> Planned:
    """The plan of a job's batch, refused if the batch does not fit.

    Args:
        job: what is generated.
        policy, budget: None is the policy's own budget.
        profile: of the model.
        memory: bytes that are free; None if unknown.
        registry: whose codecs may be suggested; the installed plugins by default.

    Raises:
        BudgetError, ProfileError, ContractError: as :func:`~scalekv_core.planning.planner.plan_policy`.
        InputError: it does not fit into memory.
    """
    batch = job.batch
    planned = plan_policy(policy, batch.geometry, budget=budget, profile=profile, model=batch.model)
    check_batch_fits(batch, planned, memory=memory, registry=registry)
    return planned


def generate(model: ImageModel, job: Job, **how: Any) -> Generation:
    """What a model generates for a job; ``how`` goes to :meth:`~scalekv_core.ImageModel.generate`."""
    return model.generate(job.prompts, seeds=job.seeds, sampling=job.sampling, **how)


@contextlib.contextmanager
def unmodified(job: Job, *, suggestion: str = "generate fewer images at once") -> Iterator[None]:
    """A block in which the unmodified model generates a job.

    Raises:
        OutOfMemory: with the size of its cache, and the suggestion.
    """
    with explaining_out_of_memory(job, None, suggestion=suggestion):
        yield


@contextlib.contextmanager
def compressed(
    model: ImageModel,
    job: Job,
    planned: Planned,
    *,
    device: torch.device | None = None,
    registry: Registry | None = None,
    **options: Any,
) -> Iterator[Session]:
    """A block in which a model generates a job under a plan; the options are those of :func:`~scalekv_core.compress`.

    ``device`` is where it runs, if its weights may be elsewhere before their turn comes.

    Raises:
        OutOfMemory: with the plan's figures, and what would fit.
    """
    suggestion = "generate fewer images at once, or give a smaller budget"
    details = partial(need_and_suggestions, job, planned, device or device_of(model), registry)
    with (
        compress(model, planned, registry=registry, **options) as session,
        explaining_out_of_memory(job, planned, suggestion=suggestion, details=details),
    ):
        yield session


def device_of(model: ImageModel) -> torch.device:
    """Where the model runs."""
    return next(model.module.parameters()).device
