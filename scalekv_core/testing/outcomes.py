"""How one check of one strategy went, as a row of a table."""

from __future__ import annotations

import shlex
from collections.abc import Collection
from typing import Literal

from attrs import evolve, field, frozen

from scalekv_core.testing.common import NeverApplies
from scalekv_core.testing.faults import fault_of, in_words
from scalekv_core.testing.kinds import Check, check_named
from scalekv_core.testing.trying import Subject, Trial
from scalekv_core.testing.worker import Hangs

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
    """The check that blocked it, why, and on which case."""

    @property
    def promise(self) -> str:
        """The former name of :attr:`check`."""
        return self.check

    @property
    def is_wrong(self) -> bool:
        """Whether it failed or timed out."""
        return self.state in WRONG


def outcome_of(
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
        state, reason, case = "timed out", too_slow(timeout), trial.case
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


def unblocked(outcome: Outcome, passed: Collection[str], subject: Subject) -> Outcome:
    """Fails a check that was blocked by another one, if that one passed: no check is left out in silence."""
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


def too_slow(timeout: float) -> str:
    """The reason of a check that takes longer."""
    return f"no answer within {timeout:g} s of processor time"


def _replay_line(one: Check, subject: Subject, case: str) -> str:
    words = ["scalekv", "check", subject.name, "--kind", subject.kind, "--check", one.name]
    for option in subject.options:
        words += ["--option", option]
    line = " ".join(map(shlex.quote, words))
    return f'{line} --case "{case}"' if case else line
