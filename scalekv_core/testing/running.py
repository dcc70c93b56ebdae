"""Runs the checks without a test suite: every check of one strategy becomes a row of a table.

A strategy that raises fails a check, one that hangs is stopped, and in either case the next check is made.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from attrs import evolve

from scalekv_core.errors import InputError, ScaleKVError, shortened
from scalekv_core.plugins.registry import Registry, shared_registry
from scalekv_core.shapes.values import check_whole
from scalekv_core.testing.faults import in_words
from scalekv_core.testing.kinds import Check, check_named, checks_of
from scalekv_core.testing.manners import restored_settings, settings
from scalekv_core.testing.outcomes import Outcome, State, outcome_of, too_slow, unblocked
from scalekv_core.testing.subjects import registered, test_model_for
from scalekv_core.testing.testmodels import TestModel, find_test_model
from scalekv_core.testing.trying import SHRINKING_SECONDS, Subject, Trial, try_cases
from scalekv_core.testing.warm_up import warm_up
from scalekv_core.testing.worker import Hangs, Worker


def run_checks(
    registry: Registry | None,
    kind: str,
    name: str,
    *,
    examples: int = 20,
    seed: int = 0,
    timeout: float = 10.0,
    test_model: TestModel | None = None,
    options: Mapping[str, Any] | None = None,
    specimen: TestModel | None = None,
) -> list[Outcome]:
    """Every check of a registered strategy.

    Args:
        registry: where the name is looked up; None takes the installed plugins.
        kind, name: which strategy.
        examples: cases for each check.
        seed: of the choice of cases: the same seed tries the same cases.
        timeout: seconds of processor time that one case may take.
        test_model: the model that an adapter is checked on; an installed one that comes with weights otherwise.
        options: {option: value} that the strategy is made with.
        specimen: the former name of ``test_model``.

    Raises:
        UnknownName: nothing installed has that name.
        PluginError: it cannot be made, or is no strategy.
        InputError: Python runs with -O, which switches every check off.
    """
    registry = registry or shared_registry()
    subject = registered(registry, kind, name, test_model or specimen, options)
    return list(try_all(subject, examples=examples, seed=seed, timeout=timeout, registry=registry))


def try_all(
    subject: Subject,
    *,
    only: Collection[str] | None = None,
    examples: int = 20,
    seed: int = 0,
    timeout: float = 10.0,
    registry: Registry | None = None,
) -> Iterator[Outcome]:
    """Every check of any strategy, registered or not, one after the other; or only those named.

    Raises:
        PluginError, InputError: the strategy cannot be made, for a reason of its own words.
    """
    refuse_switched_off()
    check_whole(examples, "a check", "examples", least=1)
    check_whole(seed, "a check", "seed")
    if isinstance(timeout, bool) or not timeout > 0:
        raise InputError(f"a check needs seconds of processor time for each case, above 0; got {shortened(timeout)}")
    warm_up()
    worker = Worker()
    try:
        subject, made, hangs = _made(subject, worker, timeout, registry)
        if hangs is not None:
            yield hangs
            return
        chosen = [one for one in checks_of(subject.kind) if only is None or one.name in only]
        outcomes, known = list[Outcome](), set[str]()
        how: dict[str, Any] = {"examples": examples, "seed": seed, "timeout": timeout, "worker": worker, "known": known}
        for one in chosen:
            reason = _never_applies(one, subject, made)
            if reason is not None:
                outcomes.append(Outcome(check=one.name, state="not applicable", seconds=0.0, reason=reason))
            else:
                outcomes.append(try_check(one, subject, **how))
                known |= {outcomes[-1].fault} - {""}
        passed = {outcome.check for outcome in outcomes if outcome.state == "passed"}
        yield from (unblocked(outcome, passed, subject) for outcome in outcomes)
    finally:
        worker.close()


def _made(
    subject: Subject, worker: Worker, timeout: float, registry: Registry | None
) -> tuple[Subject, Any, Outcome | None]:
    """The strategy, with a model for adapters; an outcome instead if it cannot be made, or not in time."""
    found: list[Any] = []

    def act() -> None:
        with restored_settings(settings()):
            made = subject.make()
        model = subject.test_model
        if model is None and subject.kind == "adapter":
            model = find_test_model(registry or shared_registry(), made)
        found.extend((made, model))

    start = time.process_time()
    error = worker.do(act, limit=timeout)
    if error is None:
        return evolve(subject, test_model=found[1]), found[0], None
    if isinstance(error, ScaleKVError):
        raise error
    state: State = "timed out" if isinstance(error, Hangs) else "failed"
    reason = too_slow(timeout) if isinstance(error, Hangs) else in_words(error)
    seconds = time.process_time() - start
    return subject, None, Outcome(check="can_be_made", state=state, seconds=seconds, reason=reason, fault=reason)


def try_check(
    one: Check,
    subject: Subject,
    *,
    examples: int = 20,
    seed: int = 0,
    timeout: float = 10.0,
    worker: Worker | None = None,
    shrinking: float = SHRINKING_SECONDS,
    known: Collection[str] = (),
) -> Outcome:
    """One check on many cases, in a thread of its own or in that of the worker.

    A case that fails is made smaller for ``shrinking`` seconds; with 0, or if its fault is a known one, it is told as it
    was found.
    """
    trial, start = Trial(patience=min(shrinking, timeout), known=known), time.process_time()

    def act() -> None:
        with restored_settings(settings()):  # what one check changes would hide it from the next
            try_cases(one, subject, trial, examples=examples, quiet=True, seed=seed)

    mine = worker or Worker()
    error = mine.do(act, limit=timeout, steps=lambda: trial.steps)
    if worker is None:
        mine.close()
    return outcome_of(one, subject, trial, error, time.process_time() - start, timeout)


def _never_applies(one: Check, subject: Subject, made: Any) -> str | None:
    if one.needs_test_model and subject.test_model is None:
        return "no installed image model of its family comes with its weights; give one with --model FILE:NAME"
    try:
        return one.not_for(made)
    except Exception:  # a property of the strategy raises; the check itself tells
        return None


def replay(
    kind: str,
    name: str,
    check_name: str,
    case: str,
    *,
    registry: Registry | None = None,
    test_model: TestModel | None = None,
    specimen: TestModel | None = None,
) -> None:
    """Makes one check on one case again, with the traceback of whatever goes wrong.

    Args:
        kind, name, check_name: as in a table of :func:`run_checks`.
        case: the line that the table gives for it.
        registry, test_model, specimen: as for :func:`run_checks`.

    Raises:
        AssertionError: the check still fails.
        NotApplicable: it does not apply to this case.
    """
    refuse_switched_off()
    registry = registry or shared_registry()
    subject, one = registered(registry, kind, name, test_model or specimen), check_named(kind, check_name)
    if one.needs_test_model and subject.test_model is None:
        subject = evolve(subject, test_model=test_model_for(registry, kind, subject.make()))
    one.call(subject.make, subject.test_model, None if one.case is None else one.case.parse(case))


def _checks_are_on() -> bool:
    return __debug__


def refuse_switched_off() -> None:
    """Raises InputError under ``python -O``, where every check would seem to pass."""
    if not _checks_are_on():
        raise InputError("checks are assert statements, and python -O switches them off; run it without -O")
