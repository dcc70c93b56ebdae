"""Generating the same images with the unmodified model and with a compressed cache, and comparing them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from attrs import frozen
from torch import Tensor

from scalekv_core.cache.kv_cache import Observer
from scalekv_core.cli import console
from scalekv_core.cli.installed import the_registry
from scalekv_core.cli.jobs import Job
from scalekv_core.cli.memory import explaining_out_of_memory, need_and_suggestions
from scalekv_core.compare import metrics as fidelity
from scalekv_core.compare.metrics import Fidelity
from scalekv_core.contracts.policy import Policy
from scalekv_core.models.image_model import Generation, ImageModel
from scalekv_core.planning.planner import Planned
from scalekv_core.session.report import ImageReport, Report
from scalekv_core.session.session import Session, compress


@frozen(eq=False, kw_only=True)
class Generated:
    """What one policy generated.

    Attributes:
        policy: what was run.
        generation: what the model generated under it, on its own.
        report: the memory of the cache.
        fidelity: how far the images are from those of the unmodified model; None if there are none.
    """

    policy: Policy
    generation: Generation
    report: Report
    fidelity: Fidelity | None

    @property
    def image(self) -> ImageReport:
        """The memory figures of the batch."""
        return self.report.images[-1]


def generate_unmodified(model: ImageModel, job: Job) -> Generation:
    """What the unmodified model generates, outside of any session."""
    suggestion = "generate fewer images at once, or leave the comparison out with --no-baseline"
    with (
        console.busy("generating with the unmodified model"),
        explaining_out_of_memory(job, None, suggestion=suggestion),
    ):
        return _generate(model, job, keep_logits=True)


def generate_compressed(
    model: ImageModel,
    job: Job,
    planned: Planned,
    *,
    unmodified: Generation | None = None,
    check: bool = False,
) -> Generated:
    """What the model generates under a plan; with ``unmodified``, also how far that is from it, in a second run that is
    given the tokens of ``unmodified``.

    Raises:
        OutOfMemory: with the plan's figures.
    """
    policy = planned.policy
    with console.busy(f"generating under {policy.name}"):
        with _session(model, job, planned, check=check, measure_peak=True) as session:
            generation = _generate(model, job)
        if unmodified is None:
            return Generated(policy=policy, generation=generation, report=session.report(), fidelity=None)
        with _session(model, job, planned, check=check):
            forced = _generate(model, job, forced=unmodified.tokens, keep_logits=unmodified.logits is not None)
    return Generated(
        policy=policy,
        generation=generation,
        report=session.report(),
        fidelity=fidelity.compare(generation, unmodified, forced),
    )


def watch(
    model: ImageModel,
    job: Job,
    planned: Planned,
    *,
    observer: Observer,
) -> Generation:
    """What the model generates under a plan, while the observer is shown every view of the cache and what is kept."""
    with (
        console.busy(f"generating under {planned.policy.name}"),
        _session(model, job, planned, observer=observer),
    ):
        return _generate(model, job)


def _generate(
    model: ImageModel, job: Job, *, forced: Sequence[Tensor] | None = None, keep_logits: bool = False
) -> Generation:
    return model.generate(job.prompts, seeds=job.seeds, sampling=job.sampling, forced=forced, keep_logits=keep_logits)


@contextlib.contextmanager
def _session(model: ImageModel, job: Job, planned: Planned, **options: Any) -> Iterator[Session]:
    suggestion = "generate fewer images at once, or give a smaller budget"
    details = partial(need_and_suggestions, job, planned, device_of(model))
    with (
        compress(model, planned, registry=the_registry(), **options) as session,
        explaining_out_of_memory(job, planned, suggestion=suggestion, details=details),
    ):
        yield session


def device_of(model: ImageModel) -> torch.device:
    """Where the model runs."""
    return next(model.module.parameters()).device
