"""The list of checks, gathered from their modules: a new ``check_*`` function is a new check, nothing else is needed."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable
from functools import cache
from typing import Any

from attrs import frozen

from scalekv_core.contracts.adapter import ModelAdapter
from scalekv_core.contracts.policy import Policy
from scalekv_core.contracts.strategies import BudgetAllocator, CacheCodec, LayerClassifier, TokenMerger, TokenSelector
from scalekv_core.errors import InputError, unknown_name
from scalekv_core.models.card import ModelCard
from scalekv_core.models.metric import Metric
from scalekv_core.testing import checks
from scalekv_core.testing.cases import Case
from scalekv_core.testing.testmodels import TestModel

KINDS: dict[str, tuple[type, tuple[types.ModuleType, ...]]] = {
    "policy": (Policy, (checks.policies, checks.policies_cached, checks.policies_apart, checks.reads)),
    "classifier": (LayerClassifier, (checks.classifiers,)),
    "allocator": (BudgetAllocator, (checks.allocators,)),
    "selector": (TokenSelector, (checks.selectors, checks.viewers, checks.viewers_cost, checks.claims)),
    "merger": (TokenMerger, (checks.mergers, checks.viewers, checks.viewers_cost)),
    "codec": (CacheCodec, (checks.codecs, checks.codecs_apart)),
    "adapter": (ModelAdapter, (checks.adapters, checks.adapters_attached, checks.adapters_failing)),
    "model": (ModelCard, (checks.models,)),
    "metric": (Metric, (checks.metrics,)),
}
"""{kind: (its class, the modules with its checks)}."""


@frozen
class Check:
    """One check of one kind of strategy.

    Attributes:
        kind: of strategy.
        name: in words.
        check: the function.
        case: the type of case that it is made on; None if nothing varies.
        needs_test_model: whether it needs a model.
    """

    kind: str
    name: str
    check: Callable[..., None]
    case: type[Case] | None
    needs_test_model: bool

    @property
    def why(self) -> str:
        """What is checked, and why, in one sentence."""
        return (inspect.getdoc(self.check) or "").split("\n\n")[0].replace("\n", " ")

    @property
    def unless(self) -> str:
        """Why it does not apply to some strategies; "" if it applies to all."""
        return str(getattr(self.check, "only_if", (None, ""))[1])

    @property
    def share(self) -> int:
        """One in how many cases is enough: checks that take long are made on fewer."""
        return int(getattr(self.check, "share", 1))

    @property
    def real_sizes(self) -> int | None:
        """The number of cases of real size that it runs on; None is the default of its type of case."""
        return getattr(self.check, "real_sizes", None)

    def not_for(self, strategy: Any) -> str | None:
        """Why it does not apply to this strategy; None if it does."""
        applies, otherwise = getattr(self.check, "only_if", (lambda _: True, ""))
        return None if applies(strategy) else otherwise

    def call(self, make: Callable[[], Any], test_model: TestModel | None, case: Case | None) -> None:
        """Runs the check once."""
        arguments: dict[str, Any] = {"test_model": test_model} if self.needs_test_model else {}
        if self.case is not None:
            arguments["case"] = case
        self.check(make, **arguments)


@cache
def checks_of(kind: str) -> tuple[Check, ...]:
    """The checks of a kind of strategy, in reading order.

    Raises:
        UnknownName: there is no such kind.
    """
    if kind not in KINDS:
        raise unknown_name("kind of strategy", kind, KINDS)
    return tuple(
        _check(kind, name.removeprefix("check_"), check)
        for module in KINDS[kind][1]
        for name, check in vars(module).items()
        if name.startswith("check_") and check.__module__ == module.__name__
    )


def check_named(kind: str, name: str) -> Check:
    """One check by name; UnknownName if there is none."""
    for one in checks_of(kind):
        if one.name == name:
            return one
    raise unknown_name(f"check of a {kind}", name, [one.name for one in checks_of(kind)])


def kind_of(strategy: Any) -> str:
    """Which kind of strategy this is.

    Raises:
        InputError: none at all.
    """
    for kind, (cls, _) in KINDS.items():
        if isinstance(strategy, cls):
            return kind
    name = strategy.__name__ if inspect.isclass(strategy) else type(strategy).__name__
    known = ", ".join(cls.__name__ for cls, _ in KINDS.values())
    raise InputError(f"{name} is no strategy; one is a subclass of {known}")


def _check(kind: str, name: str, check: Callable[..., None]) -> Check:
    hints = typing.get_type_hints(check)
    return Check(kind, name, check, hints.get("case"), "test_model" in hints)
