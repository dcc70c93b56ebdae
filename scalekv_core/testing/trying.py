"""Runs one check of one strategy on many cases; the only module in which checks use Hypothesis.

Every call makes a test function of its own. A ``@given`` that several strategies inherit would be refused by Hypothesis,
and would share its examples among them.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection
from typing import Any

import attrs
import hypothesis
from attrs import define, field
from hypothesis import HealthCheck, Phase, Verbosity, given, settings

from scalekv_core.testing import real_sizes
from scalekv_core.testing.cases import Case
from scalekv_core.testing.common import Blocked, NeverApplies, NotApplicable, Refused
from scalekv_core.testing.faults import fault_of
from scalekv_core.testing.kinds import Check
from scalekv_core.testing.state import Contents
from scalekv_core.testing.strategies import CASES, OnlyFor
from scalekv_core.testing.testmodels import TestModel

ENOUGH = 100
"""The number of cases of which at least one has to apply; of few cases all might be refused by chance."""
SHRINKING_SECONDS = 5.0
"""How long a failing case is shrunk if the caller needs an answer more than the smallest case."""
EXPENSIVE = {"GenerationCase": 10, "only_for": 20}
"""How many times fewer examples are tried where one takes long: a whole model, or a model at its full size."""
FULL = 20
"""Examples from which on real sizes are tried as often as they usually are; below, once."""


class SmallEnough(BaseException):
    """Ends the search for a smaller case; no Exception, so that Hypothesis does not take it for a failing one."""


@define(eq=False)
class Subject:
    """A strategy under its name, and what it is checked on.

    Attributes:
        kind, name: what it is.
        make: makes a new one.
        test_model: a model of its family, for adapters.
        options: what it is made with, as they are written on the command line.
        untouched: what the strategy's instance, class and module held before the first check.
    """

    kind: str
    name: str
    make: Callable[[], Any]
    test_model: TestModel | None = None
    options: tuple[str, ...] = ()
    untouched: Contents | None = None

    def begin_check(self, made: Any) -> None:
        """Forgets what the strategy remembers of earlier checks, in which it may have learnt to pass this one."""
        if self.untouched is None:
            self.untouched = Contents.of(made)
        self.untouched.restore()


@define(eq=False)
class Trial:
    """What happened while a check ran on many cases.

    Attributes:
        tried: cases that the check applied to.
        refused: cases that the strategy refused.
        set_aside: why it did not apply to others, the last reason.
        blocked: the first case that it was not made on because another check fails, and that reason.
        case: the one being tried.
        failing: the last case that failed; the smallest one in the end.
        error: what it failed with.
        steps: grows whenever a case begins or ends.
        patience: seconds that a failing case may be made smaller; None is as long as it takes, 0 is not at all.
        known: faults that need no small case, since one was found already.
    """

    tried: int = 0
    refused: int = 0
    set_aside: NotApplicable | None = None
    blocked: tuple[Case | None, Blocked] | None = None
    case: Case | None = None
    failing: Case | None = None
    error: Exception | None = None
    steps: int = 0
    patience: float | None = None
    known: Collection[str] = ()
    _until: float | None = field(default=None, init=False)

    def run(self, check: Check, subject: Subject, case: Case | None) -> None:
        """Checks one case and remembers how it went."""
        self._stop_if_small_enough()
        self.steps += 1
        self.case = case
        try:
            check.call(subject.make, subject.test_model, case)
            self.tried += 1
        except NotApplicable as reason:
            self.refused += isinstance(reason, Refused)
            self.set_aside = reason
            if isinstance(reason, Blocked) and self.blocked is None:
                self.blocked = case, reason
        except Exception as error:
            self._failed(case, error)
            self._stop_if_small_enough()
            raise
        finally:
            self.steps += 1

    def _failed(self, case: Case | None, error: Exception) -> None:
        self.tried, self.failing, self.error = self.tried + 1, case, error
        if self.patience is not None and self._until is None:
            self._until = time.monotonic() + (0 if fault_of(error) in self.known else self.patience)

    def _stop_if_small_enough(self) -> None:
        if self._until is not None and time.monotonic() >= self._until:
            raise SmallEnough


def only_for_of(strategy: Any) -> OnlyFor:
    """The models that a strategy, or the parts of a policy, are only for."""
    parts = (strategy, getattr(strategy, "allocator", None), getattr(strategy, "classifier", None))
    return next((only for part in parts if (only := getattr(part, "only_for", ()))), ())


def try_cases(check: Check, subject: Subject, trial: Trial, *, examples: int, quiet: bool, seed: int | None) -> None:
    """Runs a check on many small cases and some of real size; raises the error of the smallest failing one.

    Args:
        check, subject: what is checked.
        trial: is told how it goes.
        examples: how many small cases.
        quiet: say nothing and remember nothing beyond this call.
        seed: of the choice of cases; None lets Hypothesis choose.
    """
    made = subject.make()
    subject.begin_check(made)
    try:
        _try_cases(check, subject, trial, only_for_of(made), examples=examples, quiet=quiet, seed=seed)
    except SmallEnough:
        assert trial.error is not None
        raise trial.error from None


def _try_cases(
    check: Check, subject: Subject, trial: Trial, only_for: OnlyFor, *, examples: int, quiet: bool, seed: int | None
) -> None:
    if check.case is None:
        trial.run(check, subject, None)
        return
    share = check.share * EXPENSIVE.get(check.case.__name__, EXPENSIVE["only_for"] if only_for else 1)

    def run(case: Case) -> None:
        trial.run(check, subject, case)

    name = f"{subject.kind}_{subject.name}_{check.name}"  # under which Hypothesis remembers failures
    run.__name__ = re.sub(r"\W", "_", name)
    for number in (max(1, examples // share), max(1, ENOUGH // share)):
        test = given(case=CASES[check.case](only_for))(run)
        test = _settings(number, quiet)(test)
        (test if seed is None else hypothesis.seed(seed)(test))()
        if trial.tried or trial.blocked or isinstance(trial.set_aside, NeverApplies):
            break
    if only_for:
        return
    wanted = check.real_sizes if examples >= FULL else min(1, real_sizes.USUALLY[check.case])
    for case in real_sizes.cases_for(check.name, check.case, wanted, seed or 0):
        _try_real(check, subject, trial, case)


def _try_real(check: Check, subject: Subject, trial: Trial, case: Case) -> None:
    """Checks a case of real size; one that fails is made smaller in what can simply be left out."""
    try:
        trial.run(check, subject, case)
    except Exception as error:
        smallest, last = type(case)(), error
        for name in ("rows", "heads", "layers", "first", "layer", "layout", "softmax", "counts", "dtype", "content"):
            if getattr(case, name, None) == getattr(smallest, name, None):
                continue
            smaller = attrs.evolve(case, **{name: getattr(smallest, name)})
            try:
                trial.run(check, subject, smaller)
            except Exception as again:
                case, last = smaller, again
        trial.failing, trial.error = case, last
        raise last from None


def _settings(examples: int, quiet: bool) -> settings:
    common: dict[str, Any] = {
        "max_examples": examples,
        "deadline": None,  # the first call of torch is slow
        "suppress_health_check": list(HealthCheck),
        "report_multiple_bugs": False,
    }
    if quiet:
        common |= {"database": None, "verbosity": Verbosity.quiet, "phases": (Phase.generate, Phase.shrink)}
    return settings(**common)
