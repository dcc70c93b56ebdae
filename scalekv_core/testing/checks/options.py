"""Checks a strategy with other values of its options, as users set them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal, get_args, get_origin

import attrs

from scalekv_core.errors import BudgetError, InputError, ProfileError
from scalekv_core.testing.common import NeverApplies, NotApplicable


def each_option(make: Callable[[], Any], check: Callable[[Callable[[], Any]], None]) -> None:
    """The check for the strategy with one option after the other set to something else.

    Raises:
        NeverApplies: it has no options that could be.
    """
    others = list(_others(make()))
    if not others:
        raise NeverApplies("it has no options with other values")
    for name, other in others:
        try:
            check(lambda other=other: other)  # type: ignore[misc]
        except (NotApplicable, InputError, BudgetError, ProfileError):  # refused, as it may be
            continue
        except AssertionError as error:
            raise AssertionError(f"with {name}={getattr(other, name)} {error}") from error


def _others(strategy: Any) -> Iterator[tuple[str, Any]]:
    """(option, the strategy with another value of it) for all that its validators accept."""
    if not attrs.has(type(strategy)):
        return
    for option in attrs.fields(attrs.resolve_types(type(strategy))):
        if option.init:
            for value in _values(option.type, getattr(strategy, option.name)):
                try:
                    yield option.name, attrs.evolve(strategy, **{option.name: value})
                except Exception:  # refused, in whatever words
                    continue


def _values(hint: Any, now: Any) -> list[Any]:
    """Other values of an option of this type."""
    if get_origin(hint) is Literal:
        return [choice for choice in get_args(hint) if choice != now]
    if isinstance(now, bool):
        return [not now]
    if isinstance(now, int):
        return [now + 2, max(1, now // 2)] if now else [1]
    if isinstance(now, float):
        return [now / 2, (1 + now) / 2] if now else [0.25]
    return []
