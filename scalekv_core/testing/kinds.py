"""The list of promises, gathered from the modules of checks: a new ``check_*`` function is a new promise, nothing else."""

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
from scalekv_core.testing import checks
from scalekv_core.testing.cases import Case
from scalekv_core.testing.specimens import Specimen

KINDS: dict[str, tuple[type, tuple[types.ModuleType, ...]]] = {
    "policy": (Policy, (checks.policies,)),
    "classifier": (LayerClassifier, (checks.classifiers,)),
    "allocator": (BudgetAllocator, (checks.allocators,)),
    "selector": (TokenSelector, (checks.selectors, checks.claims)),
    "merger": (TokenMerger, (checks.mergers,)),
    "codec": (CacheCodec, (checks.codecs,)),
    "adapter": (ModelAdapter, (checks.adapters,)),
    "model": (ModelCard, (checks.models,)),
}
"""{kind: (its class, the modules with its checks)}."""


@frozen
class Promise:
    """One promise of one kind of strategy.

    Attributes:
        kind: of strategy.
        name: of the promise, in words.
        check: the function.
        case: the type of case that it is checked on; None if there is nothing to vary.
        needs_specimen: whether it wants a model.
    """

    kind: str
    name: str
    check: Callable[..., None]
    case: type[Case] | None
    needs_specimen: bool

    @property
    def why(self) -> str:
        """What is promised, in one sentence."""
        return (inspect.getdoc(self.check) or "").split("\n\n")[0].replace("\n", " ")

    @property
    def unless(self) -> str:
        """Why some strategies do not make it; "" if all do."""
        return str(getattr(self.check, "only_if", (None, ""))[1])

    def not_for(self, strategy: Any) -> str | None:
        """Why this strategy does not make this promise; None if it does."""
        applies, otherwise = getattr(self.check, "only_if", (lambda _: True, ""))
        return None if applies(strategy) else otherwise

    def call(self, make: Callable[[], Any], specimen: Specimen | None, case: Case | None) -> None:
        """Checks it once."""
        arguments: dict[str, Any] = {"specimen": specimen} if self.needs_specimen else {}
        if self.case is not None:
            arguments["case"] = case
        self.check(make, **arguments)


@cache
def promises(kind: str) -> tuple[Promise, ...]:
    """The promises of a kind of strategy, in the order in which they are best read.

    Raises:
        UnknownName: there is no such kind.
    """
    if kind not in KINDS:
        raise unknown_name("kind of strategy", kind, KINDS)
    return tuple(
        _promise(kind, name.removeprefix("check_"), check)
        for module in KINDS[kind][1]
        for name, check in vars(module).items()
        if name.startswith("check_") and check.__module__ == module.__name__
    )


def promise(kind: str, name: str) -> Promise:
    """One promise by name; UnknownName if there is none."""
    for one in promises(kind):
        if one.name == name:
            return one
    raise unknown_name(f"promise of a {kind}", name, [one.name for one in promises(kind)])


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


def _promise(kind: str, name: str, check: Callable[..., None]) -> Promise:
    hints = typing.get_type_hints(check)
    return Promise(kind, name, check, hints.get("case"), "specimen" in hints)
