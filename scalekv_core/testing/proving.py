"""One promise of one strategy, tried on many cases: the only place where checks and Hypothesis meet.

Every call makes a test function of its own. A ``@given`` that several strategies inherit would be refused by Hypothesis,
and would share its examples among them.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

import hypothesis
from attrs import define, field, frozen
from hypothesis import HealthCheck, Phase, Verbosity, given, settings

from scalekv_core.testing.cases import Case
from scalekv_core.testing.common import NotApplicable
from scalekv_core.testing.kinds import Promise
from scalekv_core.testing.specimens import Specimen
from scalekv_core.testing.strategies import CASES, Homes

SHRINKING_SECONDS = 5.0
"""How long a failing case is made smaller, if the caller wants an answer rather than the very smallest case."""
EXPENSIVE = {"DrawCase": 10, "home": 20}
"""How many times fewer examples are tried where one takes long: a whole model, or a model at its full size."""


@frozen(eq=False)
class Subject:
    """A strategy under its name, and what it is checked on.

    Attributes:
        kind, name: what it is.
        make: makes a new one.
        specimen: a model of its family, for adapters.
    """

    kind: str
    name: str
    make: Callable[[], Any]
    specimen: Specimen | None = None


@define(eq=False)
class Trial:
    """What happened while a promise was tried.

    Attributes:
        tried: cases that bore on the promise.
        set_aside: why others did not, the last reason.
        case: the one being tried, or the last that failed; the smallest one in the end.
        error: what it failed with.
        moved: when a case was last begun or ended.
    """

    tried: int = 0
    set_aside: NotApplicable | None = None
    case: Case | None = None
    error: Exception | None = None
    moved: float = field(factory=time.monotonic)
    patience: float | None = None
    _until: float | None = field(default=None, init=False)

    def run(self, promise: Promise, subject: Subject, case: Case | None) -> None:
        """Checks one case and remembers how it went."""
        if self._until is not None and time.monotonic() > self._until and str(case) != str(self.case):
            return  # enough of shrinking: only what is known to fail still fails
        failing, self.moved = self.case, time.monotonic()
        self.case = case
        try:
            promise.call(subject.make, subject.specimen, case)
            self.tried += 1
        except NotApplicable as reason:
            self.set_aside = reason
        except Exception as error:
            self._failed(error)
            raise
        self.case, self.moved = failing, time.monotonic()

    def _failed(self, error: Exception) -> None:
        self.tried, self.error, self.moved = self.tried + 1, error, time.monotonic()
        if self.patience is not None and self._until is None:
            self._until = time.monotonic() + self.patience


def homes_of(strategy: Any) -> Homes:
    """The models that a strategy, or the parts of a policy, are only for."""
    parts = (strategy, getattr(strategy, "allocator", None), getattr(strategy, "classifier", None))
    return next((homes for part in parts if (homes := getattr(part, "only_for", ()))), ())


def prove(promise: Promise, subject: Subject, trial: Trial, *, examples: int, quiet: bool, seed: int | None) -> None:
    """Tries a promise on many cases; raises what the smallest failing one raised.

    Args:
        promise, subject: what is tried on whom.
        trial: is told how it goes.
        examples: how many cases.
        quiet: say nothing and remember nothing beyond this call.
        seed: of the choice of cases; None lets Hypothesis choose.
    """
    if promise.case is None:
        trial.run(promise, subject, None)
        return
    homes = homes_of(subject.make())
    dear = EXPENSIVE.get(promise.case.__name__, EXPENSIVE["home"] if homes else 1)

    def run(case: Case) -> None:
        trial.run(promise, subject, case)

    name = f"{subject.kind}_{subject.name}_{promise.name}"  # under which Hypothesis remembers failures
    run.__name__ = re.sub(r"\W", "_", name)
    test = given(case=CASES[promise.case](homes))(run)
    test = _settings(max(1, examples // dear), quiet)(test)
    (test if seed is None else hypothesis.seed(seed)(test))()


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
