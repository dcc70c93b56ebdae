"""Generating the same images with the unmodified model and with a compressed cache, and comparing them."""

from __future__ import annotations

from functools import partial

from attrs import frozen

from scalekv_core.cache.kv_cache import Observer
from scalekv_core.cli import console
from scalekv_core.cli.installed import the_registry
from scalekv_core.compare import metrics as fidelity
from scalekv_core.compare.metrics import Fidelity
from scalekv_core.contracts.policy import Policy
from scalekv_core.models.image_model import Generation, ImageModel
from scalekv_core.pipeline import running
from scalekv_core.pipeline.job import Job
from scalekv_core.planning.planner import Planned
from scalekv_core.session.report import ImageReport, Report


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
    with console.busy("generating with the unmodified model"), running.unmodified(job, suggestion=suggestion):
        return running.generate(model, job, keep_logits=True)


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
    under_plan = partial(running.compressed, model, job, planned, registry=the_registry(), check=check)
    with console.busy(f"generating under {policy.name}"):
        with under_plan(measure_peak=True) as session:
            generation = running.generate(model, job)
        if unmodified is None:
            return Generated(policy=policy, generation=generation, report=session.report(), fidelity=None)
        keep_logits = unmodified.logits is not None
        with under_plan():
            forced = running.generate(model, job, forced=unmodified.tokens, keep_logits=keep_logits)
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
        running.compressed(model, job, planned, registry=the_registry(), observer=observer),
    ):
        return running.generate(model, job)
