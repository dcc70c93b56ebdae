"""The kit without a test suite: every promise of one strategy as a row of a table, whatever the strategy does.

A strategy that raises breaks a promise, one that hangs is stopped, and in either case the next promise is tried.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from typing import Any, Literal

from attrs import frozen

from scalekv_core.errors import InputError
from scalekv_core.plugins.registry import Registry, shared_registry
from scalekv_core.testing.cases import Case
from scalekv_core.testing.common import NotMade
from scalekv_core.testing.kinds import Promise, kind_of, promise, promises
from scalekv_core.testing.proving import SHRINKING_SECONDS, Subject, Trial, prove
from scalekv_core.testing.specimens import Specimen, find_specimen
from scalekv_core.testing.worker import Hangs, Worker

State = Literal["kept", "broken", "hangs", "not applicable"]


@frozen(kw_only=True)
class Outcome:
    """How one promise went.

    Attributes:
        promise: its name.
        state: ``kept``, ``broken``, ``hangs`` or ``not applicable``.
        seconds: how long it was tried.
        reason: what is wrong, or why it does not apply, in a sentence.
        case: the smallest case that fails, as a line; "" if there is none.
        replay: the command that checks this case again.
    """

    promise: str
    state: State
    seconds: float
    reason: str = ""
    case: str = ""
    replay: str = ""


def run_checks(
    registry: Registry | None,
    kind: str,
    name: str,
    *,
    examples: int = 20,
    seed: int = 0,
    timeout: float = 10.0,
    specimen: Specimen | None = None,
) -> list[Outcome]:
    """Every promise of a registered strategy.

    Args:
        registry: where the name is looked up; None takes the installed plugins.
        kind, name: which strategy.
        examples: cases for each promise.
        seed: of the choice of cases: the same seed tries the same cases.
        timeout: seconds that one case may take.
        specimen: the model that an adapter is checked on; an installed one that comes with weights otherwise.

    Raises:
        UnknownName: nothing installed has that name.
        PluginError: it cannot be made, or is no strategy.
        InputError: Python runs with -O, which switches every check off.
    """
    registry = registry or shared_registry()
    subject = registered(registry, kind, name, specimen)
    return list(try_all(subject, examples=examples, seed=seed, timeout=timeout))


def try_all(
    subject: Subject,
    *,
    only: Collection[str] | None = None,
    examples: int = 20,
    seed: int = 0,
    timeout: float = 10.0,
) -> Iterator[Outcome]:
    """Every promise of any strategy, registered or not, one after the other; or only those named."""
    refuse_switched_off()
    worker = Worker()
    for one in promises(subject.kind):
        if only is not None and one.name not in only:
            continue
        reason = _not_made(one, subject)
        if reason is not None:
            yield Outcome(promise=one.name, state="not applicable", seconds=0.0, reason=reason)
        else:
            yield try_promise(one, subject, examples=examples, seed=seed, timeout=timeout, worker=worker)
    worker.close()


def try_promise(
    one: Promise,
    subject: Subject,
    *,
    examples: int = 20,
    seed: int = 0,
    timeout: float = 10.0,
    worker: Worker | None = None,
) -> Outcome:
    """One promise on many cases, in a thread of its own or in that of the worker."""
    trial, start = Trial(patience=min(SHRINKING_SECONDS, timeout)), time.monotonic()

    def act() -> None:
        prove(one, subject, trial, examples=examples, quiet=True, seed=seed)

    mine = worker or Worker()
    error = mine.do(act, overdue=lambda: time.monotonic() - trial.moved > timeout)
    if worker is None:
        mine.close()
    return _outcome(one, subject, trial, error, time.monotonic() - start, timeout)


def _not_made(one: Promise, subject: Subject) -> str | None:
    if one.needs_specimen and subject.specimen is None:
        return "no installed image model of its family comes with its weights"
    return one.not_for(subject.make())


def replay(
    kind: str,
    name: str,
    promise_name: str,
    case: str,
    *,
    registry: Registry | None = None,
    specimen: Specimen | None = None,
) -> None:
    """Checks one promise on one case again, with the traceback of whatever goes wrong.

    Args:
        kind, name, promise_name: as in a table of :func:`run_checks`.
        case: the line that the table gives for it.

    Raises:
        AssertionError: the promise is still broken.
        NotApplicable: the case does not bear on it.
    """
    refuse_switched_off()
    subject, one = registered(registry or shared_registry(), kind, name, specimen), promise(kind, promise_name)
    one.call(subject.make, subject.specimen, None if one.case is None else one.case.parse(case))


def registered(registry: Registry, kind: str, name: str, specimen: Specimen | None = None) -> Subject:
    """A registered strategy, ready to be checked.

    Raises:
        UnknownName: nothing installed has that name.
        PluginError: it cannot be made, or is something else.
    """
    made = registry.make(kind, name)
    kind_of(made)
    return Subject(kind, name, lambda: registry.make(kind, name), specimen or specimen_for(registry, kind, made))


def specimen_for(registry: Registry | None, kind: str, strategy: Any) -> Specimen | None:
    """A model for an adapter, from those that are installed; None for everything else."""
    return find_specimen(registry or shared_registry(), strategy) if kind == "adapter" else None


def _checks_are_on() -> bool:
    return __debug__


def refuse_switched_off() -> None:
    """Raises InputError under ``python -O``, where every check would seem to be kept."""
    if not _checks_are_on():
        raise InputError("checks are assert statements, and python -O switches them off; run it without -O")


def _outcome(
    one: Promise, subject: Subject, trial: Trial, error: BaseException | None, seconds: float, timeout: float
) -> Outcome:
    state: State = "kept"
    reason, case = "", trial.case
    if isinstance(error, Hangs):
        state, reason = "hangs", f"no answer within {timeout:g} s"
    elif error is not None:
        state, reason = "broken", in_words(trial.error or error)
    elif not trial.tried:
        state, reason, case = "not applicable", str(trial.set_aside), None
        if not isinstance(trial.set_aside, NotMade):
            state, reason = "broken", f"not checked, no case was accepted; the last: {reason}"
    line = "" if state == "kept" or case is None else str(case)
    return Outcome(
        promise=one.name,
        state=state,
        seconds=seconds,
        reason=reason,
        case=line,
        replay=_replay_line(one, subject, case) if state in ("broken", "hangs") else "",
    )


def in_words(error: BaseException) -> str:
    """What went wrong, in one line: a broken promise's own sentence, or what the strategy raised."""
    text = str(error).strip().split("\nassert ")[0].splitlines()
    first = text[0] if text else "no reason given"
    return (
        first.removeprefix("AssertionError: ")
        if isinstance(error, AssertionError)
        else (f"raised {type(error).__name__}: {first}")
    )


def _replay_line(one: Promise, subject: Subject, case: Case | None) -> str:
    name = f"'{subject.name}'" if " " in subject.name else subject.name
    line = f"scalekv check {name} --kind {subject.kind} --promise {one.name}"
    return line if case is None else f'{line} --case "{case}"'
