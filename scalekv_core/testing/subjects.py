"""Named strategies that are ready to be checked: registered ones, and those that a factory makes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import frozen

from scalekv_core.contracts.options import set_options
from scalekv_core.contracts.policy import Policy
from scalekv_core.errors import InputError, ScaleKVError, first_line
from scalekv_core.plugins.registry import Registry, shared_registry
from scalekv_core.testing.kinds import kind_of
from scalekv_core.testing.outcomes import too_slow
from scalekv_core.testing.testmodels import TestModel, find_test_model
from scalekv_core.testing.trying import Subject
from scalekv_core.testing.worker import Hangs, Worker


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
        why = too_slow(timeout) if isinstance(error, Hangs) else f"{type(error).__name__}: {first_line(error)}"
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
