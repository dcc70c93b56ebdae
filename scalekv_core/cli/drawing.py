"""Drawing the same images with the whole and with a compressed cache, and comparing them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from attrs import frozen
from torch import Tensor

from scalekv_core.cache.kv_cache import Observer
from scalekv_core.cli import console
from scalekv_core.cli.config import Choice
from scalekv_core.cli.loading import Job, the_registry
from scalekv_core.cli.memory import check_room, naming_the_plan, told_by_plan
from scalekv_core.compare import metrics as fidelity
from scalekv_core.compare.metrics import Fidelity
from scalekv_core.contracts.policy import Policy
from scalekv_core.contracts.profile import AttentionProfile
from scalekv_core.errors import ScaleKVError
from scalekv_core.models.image_model import Generation, ImageModel
from scalekv_core.planning.planner import Planned, plan_policy
from scalekv_core.session.report import ImageReport, Report
from scalekv_core.session.session import Session, compress

Chosen = tuple[Policy, str | None]
"""A policy and its budget; None is the policy's own."""


@frozen(eq=False, kw_only=True)
class Drawn:
    """What one policy drew.

    Attributes:
        policy: what was run.
        generation: what it drew on its own.
        report: what it held.
        fidelity: how far that is from the unmodified model; None if that one did not draw.
    """

    policy: Policy
    generation: Generation
    report: Report
    fidelity: Fidelity | None

    @property
    def image(self) -> ImageReport:
        """The figures of the batch that was drawn."""
        return self.report.images[-1]


def policies_of(choice: Choice) -> list[Chosen]:
    """Each policy that was chosen, with its budget. Where several are compared, one that does not spend a budget keeps
    its own: it is the yardstick. Of ``all``, those that do spend one and can be set as was asked.

    Raises:
        UnknownName, InputError: a policy, part or option that is not there, or a value out of range.
    """
    registry = the_registry()
    names = registry.names("policy") if choice.every else choice.policies
    made = []
    with _leaving_out(choice, names) as attempt:
        for name in names:
            with attempt(name):
                made.append(registry.policy(name, options=choice.options, **choice.parts))
    if choice.every:
        made = [policy for policy in made if policy.allocator.spends_all]
    several = len(made) > 1
    return [(p, choice.budget if p.allocator.spends_all or not several else None) for p in made]


def plan_all(
    job: Job,
    choice: Choice,
    chosen: Sequence[Chosen],
    profile: AttentionProfile | None,
    *,
    memory: int | None = None,
) -> list[Planned]:
    """The plans of the batch, so that what cannot be done is refused before anything is loaded. Of ``all``, those that
    can be planned for this model.

    Args:
        job: what is drawn.
        choice, chosen: the policies.
        profile: the model's.
        memory: bytes that there are; None if nobody can tell.

    Raises:
        BudgetError, ProfileError, ContractError: as :func:`~scalekv_core.planning.planner.plan_policy`.
        InputError: it does not fit into memory.
    """
    batch, plans = job.batch, []
    with _leaving_out(choice, [policy.name for policy, _ in chosen]) as attempt:
        for policy, budget in chosen:
            with attempt(policy.name):
                planned = plan_policy(policy, batch.geometry, budget=budget, profile=profile, model=batch.model)
                check_room(job, planned, profile, memory)
                plans.append(planned)
    return plans


@contextlib.contextmanager
def _leaving_out(choice: Choice, names: Sequence[str]) -> Iterator[Callable[[str], AbstractContextManager[None]]]:
    """What cannot be done is refused, and with ``all`` left out with a line that says why; all at once is refused."""
    failed: list[ScaleKVError] = []

    @contextlib.contextmanager
    def attempt(name: str) -> Iterator[None]:
        try:
            yield
        except ScaleKVError as error:
            if not choice.every:
                raise
            failed.append(error)
            console.complain(f"policy {name!r} is left out: {error}")

    yield attempt
    if failed and len(failed) == len(names):
        raise failed[0]


def draw_full(model: ImageModel, job: Job) -> Generation:
    """What the unmodified model draws, outside of any session."""
    suggestion = "draw fewer images at once, or leave the comparison out with --no-full"
    with console.busy("drawing with the whole cache"), naming_the_plan(job, None, suggestion=suggestion):
        return _draw(model, job, keep_logits=True)


def draw_compressed(
    model: ImageModel,
    job: Job,
    planned: Planned,
    *,
    profile: AttentionProfile | None = None,
    full: Generation | None = None,
    check: bool = False,
) -> Drawn:
    """What the model draws under a plan; with ``full``, also how far that is from it, in a second run that is given
    the tokens of ``full``.

    Raises:
        OutOfMemory: with the plan's figures.
    """
    policy = planned.policy
    with console.busy(f"drawing under {policy.name}"):
        with _session(model, job, planned, profile, check=check, measure_peak=True) as session:
            generation = _draw(model, job)
        if full is None:
            return Drawn(policy=policy, generation=generation, report=session.report(), fidelity=None)
        with _session(model, job, planned, profile, check=check):
            forced = _draw(model, job, forced=full.tokens, keep_logits=full.logits is not None)
    return Drawn(
        policy=policy,
        generation=generation,
        report=session.report(),
        fidelity=fidelity.compare(generation, full, forced),
    )


def watch(
    model: ImageModel,
    job: Job,
    planned: Planned,
    *,
    profile: AttentionProfile | None,
    observer: Observer,
) -> Generation:
    """What the model draws under a plan, while the observer is shown every view of the cache and what stays."""
    with (
        console.busy(f"drawing under {planned.policy.name}"),
        _session(model, job, planned, profile, observer=observer),
    ):
        return _draw(model, job)


def _draw(
    model: ImageModel, job: Job, *, forced: Sequence[Tensor] | None = None, keep_logits: bool = False
) -> Generation:
    return model.generate(job.prompts, seeds=job.seeds, sampling=job.sampling, forced=forced, keep_logits=keep_logits)


@contextlib.contextmanager
def _session(
    model: ImageModel, job: Job, planned: Planned, profile: AttentionProfile | None, **options: Any
) -> Iterator[Session]:
    suggestion = "draw fewer images at once, or give a smaller budget"
    told = partial(told_by_plan, job, planned, profile, device_of(model))
    with (
        compress(model, planned.policy, planned.budget, profile=profile, registry=the_registry(), **options) as session,
        naming_the_plan(job, planned, suggestion=suggestion, told=told),
    ):
        yield session


def device_of(model: ImageModel) -> torch.device:
    """Where the model runs."""
    return next(model.module.parameters()).device
