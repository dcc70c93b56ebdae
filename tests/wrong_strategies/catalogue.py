"""Strategies that are wrong on purpose, and the check that each of them fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from attrs import frozen

Strategy = TypeVar("Strategy", bound=Callable[[], Any])
WRONG: list[Wrong] = []


@frozen
class Wrong:
    """A wrong strategy: its name, what makes it, the check that it fails, and what is wrong with it."""

    name: str
    make: Callable[[], Any]
    check: str

    @property
    def fault(self) -> str:
        """The first line of its docstring."""
        return (self.make.__doc__ or "").splitlines()[0]


def fails(check: str) -> Callable[[Strategy], Strategy]:
    """Puts a class, or a function that makes a strategy, into the catalogue."""

    def enter(make: Strategy) -> Strategy:
        WRONG.append(Wrong(make.__name__, make, check))
        return make

    return enter
