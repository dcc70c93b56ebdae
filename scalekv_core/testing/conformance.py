"""The kit for a test suite: three lines, and every check of every strategy is a test of its own.

::

    @parametrize_with_checks({"topk": TopK, "narrow": lambda: TopK(window=4)})
    def test_my_strategies_pass_all_checks(check):
        check()
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest
from attrs import frozen
from hypothesis import settings

from scalekv_core.errors import InputError, ScaleKVError
from scalekv_core.plugins.registry import Registry, shared_registry
from scalekv_core.testing.cases import Case
from scalekv_core.testing.common import Blocked, NeverApplies, NotApplicable
from scalekv_core.testing.kinds import KINDS, Check, check_named, checks_of, kind_of
from scalekv_core.testing.testmodels import TestModel, find_test_model
from scalekv_core.testing.trying import Subject, Trial, try_cases

Factories = Mapping[str, Callable[[], Any]]


@frozen(eq=False)
class BoundCheck:
    """One check of one strategy, as a callable."""

    subject: Subject
    check: Check

    def __call__(self) -> None:
        """Runs it on as many cases as the Hypothesis profile says; skips with the reason if it applies to none."""
        __tracebackhide__ = True
        trial = self._try(self.check)
        if trial.blocked is not None:
            self._blocked(*trial.blocked)
        if not trial.tried:
            self._not_made(trial.set_aside)

    def _try(self, check: Check) -> Trial:
        __tracebackhide__ = True
        trial = Trial()
        try:
            try_cases(check, self.subject, trial, examples=settings().max_examples, quiet=False, seed=None)
        except Exception as error:
            if hasattr(error, "add_note"):  # since Python 3.11
                error.add_note(f"{check.name}: {check.why}")
            raise
        return trial

    def _blocked(self, case: Case | None, reason: Blocked) -> None:
        __tracebackhide__ = True
        try:
            self._try(check_named(self.subject.kind, reason.by))
        except Exception:  # which its own test tells
            pytest.skip(str(reason))
        pytest.fail(f"{self.check.name} on {case}: {reason.reason}; but {reason.by} passes", pytrace=False)

    def _not_made(self, reason: NotApplicable | None) -> None:
        __tracebackhide__ = True
        if isinstance(reason, NeverApplies):
            pytest.skip(str(reason))
        pytest.fail(
            f"{self.check.name} was not checked: {reason}. A strategy that is for some models only names them in only_for",
            pytrace=False,
        )


@frozen(eq=False)
class Unmakeable:
    """A check that fails with the reason why the strategy cannot be made."""

    error: Exception

    def __call__(self) -> None:
        raise self.error


def parametrize_with_checks(
    strategies: Factories | Iterable[str],
    *,
    expected_failures: Mapping[tuple[str, str], str] | None = None,
    test_models: Mapping[str, TestModel] | None = None,
    registry: Registry | None = None,
    specimens: Mapping[str, TestModel] | None = None,
) -> pytest.MarkDecorator:
    """A decorator that gives a test one argument, ``check``: one check of one strategy, as a callable.

    Args:
        strategies: {name: factory}, of any kinds, or names from the registry, of every kind that has the name.
        expected_failures: {(name, check): reason}; these must fail, and say so.
        test_models: {name: a tiny model} for adapters; the registry's models that come with weights otherwise.
        registry: where names, and models for adapters, are looked up; the installed plugins by default.
        specimens: the former name of ``test_models``.

    Test ids are ``name-check``, where a registry name is ``kind.name``. Checks that do not apply to a strategy (the
    optional ones that it does not claim) are left out.

    Raises:
        InputError: an expected failure of something that is not tested, or a registry name that is not there.
    """
    expected, found = dict(expected_failures or {}), test_models or specimens or {}
    params = []
    for name, make in _factories(strategies, registry).items():
        params += list(_params(name, make, expected, found.get(name), registry))
    if expected:
        listed = ", ".join(f"{name}-{check}" for name, check in expected)
        raise InputError(f"expected to fail, but not among the checks that are made: {listed}")
    return pytest.mark.parametrize("check", params)


def _factories(strategies: Factories | Iterable[str], registry: Registry | None) -> Factories:
    if isinstance(strategies, Mapping):
        return strategies
    registry = registry or shared_registry()
    named: dict[str, Callable[[], Any]] = {}
    for name in strategies:
        kinds = [kind for kind in KINDS if (kind, name) in registry.offers]
        if not kinds:
            raise InputError(f"no installed plugin offers a strategy called {name!r}")
        named |= {f"{kind}.{name}": registry.offer(kind, name).factory for kind in kinds}
    return named


def _params(
    name: str,
    make: Callable[[], Any],
    expected: dict[tuple[str, str], str],
    test_model: TestModel | None,
    registry: Registry | None,
) -> Iterable[Any]:
    try:
        strategy = make()
        kind = kind_of(strategy)
    except Exception as error:  # a test fails, and the others go on
        yield pytest.param(Unmakeable(error), id=f"{name}-can_be_made")
        return
    if kind == "adapter" and test_model is None:
        test_model = _installed_test_model(registry, strategy)
    subject = Subject(kind, name, make, test_model)
    for check in checks_of(kind):
        if check.not_for(strategy) is None:
            yield _param(subject, check, expected.pop((name, check.name), None))


def _param(subject: Subject, check: Check, expected: str | None) -> Any:
    marks = [] if expected is None else [pytest.mark.xfail(reason=expected, strict=True)]
    if check.needs_test_model and subject.test_model is None:
        why = "no installed image model of its family comes with weights; give test_models={name: TestModel(...)}"
        marks = [pytest.mark.skip(reason=why)]
    return pytest.param(BoundCheck(subject, check), id=f"{subject.name}-{check.name}", marks=marks)


def _installed_test_model(registry: Registry | None, adapter: Any) -> TestModel | None:
    try:
        return find_test_model(registry or shared_registry(), adapter)
    except ScaleKVError:
        return None
