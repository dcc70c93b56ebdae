"""The kit for a test suite: three lines, and every promise of every strategy is a test of its own.

::

    @parametrize_with_checks({"topk": TopK, "narrow": lambda: TopK(window=4)})
    def test_my_strategies_keep_their_promises(check):
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
from scalekv_core.testing.common import NotApplicable, NotMade
from scalekv_core.testing.kinds import KINDS, Promise, kind_of, promises
from scalekv_core.testing.proving import Subject, Trial, prove
from scalekv_core.testing.specimens import Specimen, find_specimen

Factories = Mapping[str, Callable[[], Any]]


@frozen(eq=False)
class Check:
    """One promise of one strategy, ready to be called."""

    subject: Subject
    promise: Promise

    def __call__(self) -> None:
        """Tries it on as many cases as the Hypothesis profile says; skips with the reason where no case bears on it."""
        __tracebackhide__ = True
        trial = Trial()
        try:
            prove(self.promise, self.subject, trial, examples=settings().max_examples, quiet=False, seed=None)
        except Exception as error:
            if hasattr(error, "add_note"):  # since Python 3.11
                error.add_note(f"{self.promise.name}: {self.promise.why}")
            raise
        if not trial.tried:
            _no_case(self.promise, trial.set_aside)


def _no_case(promise: Promise, reason: NotApplicable | None) -> None:
    if isinstance(reason, NotMade):
        pytest.skip(str(reason))
    pytest.fail(
        f"{promise.name} was not checked: {reason}. A strategy that is for some models only names them in only_for",
        pytrace=False,
    )


@frozen(eq=False)
class Broken:
    """Stands in for the checks of something that cannot be made."""

    error: Exception

    def __call__(self) -> None:
        raise self.error


def parametrize_with_checks(
    strategies: Factories | Iterable[str],
    *,
    expected_failures: Mapping[tuple[str, str], str] | None = None,
    specimens: Mapping[str, Specimen] | None = None,
    registry: Registry | None = None,
) -> pytest.MarkDecorator:
    """A decorator that gives a test one argument, ``check``: a promise of a strategy, to be called.

    Args:
        strategies: {name: factory}, of any kinds, or names from the registry, of every kind that has the name.
        expected_failures: {(name, promise): reason}; these must fail, and say so.
        specimens: {name: a tiny model} for adapters; the registry's models that come with weights otherwise.
        registry: where names, and models for adapters, are looked up; the installed plugins by default.

    Test ids are ``name-promise``, where a registry name is ``kind.name``. Promises that a strategy does not make (the
    optional ones that it does not claim) are left out.

    Raises:
        InputError: an expected failure of something that is not tested, or a registry name that is not there.
    """
    expected, found = dict(expected_failures or {}), specimens or {}
    params = []
    for name, make in _factories(strategies, registry).items():
        params += list(_params(name, make, expected, found.get(name), registry))
    if expected:
        listed = ", ".join(f"{name}-{promise}" for name, promise in expected)
        raise InputError(f"expected to fail, but not among the promises that are tested: {listed}")
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
    specimen: Specimen | None,
    registry: Registry | None,
) -> Iterable[Any]:
    try:
        strategy = make()
        kind = kind_of(strategy)
    except Exception as error:  # a test fails, and the others go on
        yield pytest.param(Broken(error), id=f"{name}-can_be_made")
        return
    if kind == "adapter" and specimen is None:
        specimen = _installed_specimen(registry, strategy)
    subject = Subject(kind, name, make, specimen)
    for promise in promises(kind):
        if promise.not_for(strategy) is None:
            yield _param(subject, promise, expected.pop((name, promise.name), None))


def _param(subject: Subject, promise: Promise, expected: str | None) -> Any:
    marks = [] if expected is None else [pytest.mark.xfail(reason=expected, strict=True)]
    if promise.needs_specimen and subject.specimen is None:
        why = "no installed image model of its family comes with weights; give specimens={name: Specimen(...)}"
        marks = [pytest.mark.skip(reason=why)]
    return pytest.param(Check(subject, promise), id=f"{subject.name}-{promise.name}", marks=marks)


def _installed_specimen(registry: Registry | None, adapter: Any) -> Specimen | None:
    try:
        return find_specimen(registry or shared_registry(), adapter)
    except ScaleKVError:
        return None
