"""The kit without a test suite: every check of one strategy as a row of a table, whatever the strategy does.

A strategy that raises fails a check, one that hangs is stopped, and in either case the next check is made.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Literal

from attrs import evolve, field, frozen

from scalekv_core.contracts.options import set_options
from scalekv_core.contracts.policy import Policy
from scalekv_core.errors import InputError, ScaleKVError
from scalekv_core.plugins.registry import Registry, shared_registry
from scalekv_core.testing.common import NeverApplies
from scalekv_core.testing.faults import fault_of, first_line, in_words
from scalekv_core.testing.kinds import Check, check_named, checks_of, kind_of
from scalekv_core.testing.testmodels import TestModel, find_test_model
from scalekv_core.testing.trying import SHRINKING_SECONDS, Subject, Trial, try_cases
from scalekv_core.testing.warm_up import warm_up
from scalekv_core.testing.worker import Hangs, Worker

State = Literal["passed", "failed", "timed out", "not applicable"]
WRONG: tuple[State, ...] = ("failed", "timed out")


@frozen(kw_only=True)
class Outcome:
    """How one check went.

    Attributes:
        check: its name.
        state: ``passed``, ``failed``, ``timed out`` or ``not applicable``.
        seconds: of processor time that it took.
        cases: on how many cases it was made.
        refused: how many more the strategy refused.
        reason: what is wrong, or why it does not apply, in a sentence.
        case: the smallest case that fails, as a line; "" if there is none.
        replay: the command that checks this case again.
        fault: what is the same for two checks that fail for one reason: where it was raised, or the reason.
    """

    check: str
    state: State
    seconds: float
    cases: int = 0
    refused: int = 0
    reason: str = ""
    case: str = ""
    replay: str = ""
    fault: str = ""
    blocked: tuple[str, str, str] | None = field(default=None, repr=False)
    """By which other check, why, and on which case it was not made."""

    @property
    def promise(self) -> str:
        """The former name of :attr:`check`."""
        return self.check

    @property
    def is_wrong(self) -> bool:
        """Whether it failed or timed out."""
        return self.state in WRONG


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
        yield from (_unblocked(outcome, passed, subject) for outcome in outcomes)
    finally:
        worker.close()


def _made(
    subject: Subject, worker: Worker, timeout: float, registry: Registry | None
) -> tuple[Subject, Any, Outcome | None]:
    """The strategy, with a model for adapters; an outcome instead where it cannot be made or that takes too long."""
    found: list[Any] = []

    def act() -> None:
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
    reason = _too_slow(timeout) if isinstance(error, Hangs) else in_words(error)
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
        try_cases(one, subject, trial, examples=examples, quiet=True, seed=seed)

    mine = worker or Worker()
    error = mine.do(act, limit=timeout, steps=lambda: trial.steps)
    if worker is None:
        mine.close()
    return _outcome(one, subject, trial, error, time.process_time() - start, timeout)


def _never_applies(one: Check, subject: Subject, made: Any) -> str | None:
    if one.needs_test_model and subject.test_model is None:
        return "no installed image model of its family comes with its weights; give one with --model FILE:NAME"
    try:
        return one.not_for(made)
    except Exception:  # a property of the strategy raises; the check itself tells
        return None


def _unblocked(outcome: Outcome, passed: Collection[str], subject: Subject) -> Outcome:
    """A check that was not made because of another one fails if that one passed: nothing goes unchecked in silence."""
    if outcome.blocked is None or outcome.blocked[0] not in passed:
        return outcome
    by, reason, case = outcome.blocked
    return evolve(
        outcome,
        state="failed",
        reason=f"{reason} (in a case that {by} did not try)",
        case=case,
        fault=reason,
        replay=_replay_line(check_named(subject.kind, outcome.check), subject, case),
    )


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


@frozen
class Factory:
    """Makes a strategy with options: what a subject's ``make`` is, so that it can be sent to another process.

    Attributes:
        factory: makes the strategy.
        name: for messages.
        options: {option: value}, as pairs.
    """

    factory: Any
    name: str
    options: tuple[tuple[str, Any], ...] = ()

    def __call__(self) -> Any:
        made = self.factory()
        if isinstance(made, Policy):
            return made.with_options(dict(self.options))
        return set_options(self.name, made, dict(self.options)) if self.options else made


def kind_in_time(make: Any, name: str, timeout: float = 10.0) -> str:
    """The kind of what a factory makes, which it has to do within this processor time.

    Raises:
        InputError: it cannot be made, takes too long, or is no strategy.
    """
    worker, found = Worker(), list[Any]()
    error = worker.do(lambda: found.append(make()), limit=timeout)
    worker.close()
    if isinstance(error, ScaleKVError):
        raise error
    if error is not None:
        why = _too_slow(timeout) if isinstance(error, Hangs) else f"{type(error).__name__}: {first_line(error)}"
        raise InputError(f"{name!r} cannot be made ({why})") from error
    return kind_of(found[0])


def registered(
    registry: Registry,
    kind: str,
    name: str,
    test_model: TestModel | None = None,
    options: Mapping[str, Any] | None = None,
) -> Subject:
    """A registered strategy, ready to be checked; it is not made yet.

    Raises:
        UnknownName: nothing installed has that name.
    """
    registry.offer(kind, name)
    given = tuple((options or {}).items())
    make = Factory(_Registered(registry, kind, name), f"{kind} {name!r}", given)
    return Subject(kind, name, make, test_model, tuple(f"{option}={value}" for option, value in given))


@frozen(eq=False)
class _Registered:
    """Makes a registered strategy, with the registry's own refusals; travels as the bare factory."""

    registry: Registry
    kind: str
    name: str

    def __call__(self) -> Any:
        return self.registry.make(self.kind, self.name)

    def __reduce__(self) -> tuple[Any, ...]:
        return _itself, (self.registry.offer(self.kind, self.name).factory,)


def _itself(factory: Any) -> Any:
    return factory


def test_model_for(registry: Registry | None, kind: str, strategy: Any) -> TestModel | None:
    """A model for an adapter, from those that are installed; None for everything else."""
    return find_test_model(registry or shared_registry(), strategy) if kind == "adapter" else None


test_model_for.__test__ = False  # type: ignore[attr-defined]  # pytest would take it for a test


def _checks_are_on() -> bool:
    return __debug__


def refuse_switched_off() -> None:
    """Raises InputError under ``python -O``, where every check would seem to pass."""
    if not _checks_are_on():
        raise InputError("checks are assert statements, and python -O switches them off; run it without -O")


def _outcome(
    one: Check, subject: Subject, trial: Trial, error: BaseException | None, seconds: float, timeout: float
) -> Outcome:
    state: State = "passed"
    reason, fault, case = "", "", None
    if trial.error is not None or (error is not None and not isinstance(error, Hangs)):
        wrong = trial.error or error
        assert wrong is not None
        state, reason, fault, case = "failed", in_words(wrong), fault_of(wrong), trial.failing
        if isinstance(error, Hangs):
            reason += f" (and on {trial.case} it takes more than {timeout:g} s)"
    elif isinstance(error, Hangs):
        state, reason, case = "timed out", _too_slow(timeout), trial.case
        fault = reason
    elif not trial.tried:
        state, reason, case = "not applicable", str(trial.set_aside), trial.case
        if not isinstance(trial.set_aside, NeverApplies):
            state, case, fault = "failed", None, "refuses everything"
            reason = f"not checked, no case was accepted; the last: {reason}"
    line = "" if state == "passed" or case is None else str(case)
    blocked = trial.blocked if state in ("passed", "not applicable") else None
    return Outcome(
        check=one.name,
        state=state,
        seconds=seconds,
        cases=trial.tried,
        refused=trial.refused,
        reason=reason,
        case=line,
        fault=fault,
        blocked=None if blocked is None else (blocked[1].by, blocked[1].reason, str(blocked[0] or "")),
        replay=_replay_line(one, subject, line) if state in WRONG else "",
    )


def _too_slow(timeout: float) -> str:
    return f"no answer within {timeout:g} s of processor time"


def _replay_line(one: Check, subject: Subject, case: str) -> str:
    words = ["scalekv", "check", subject.name, "--kind", subject.kind, "--check", one.name]
    for option in subject.options:
        words += ["--option", option]
    line = " ".join(map(shlex.quote, words))
    return f'{line} --case "{case}"' if case else line
