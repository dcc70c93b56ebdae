"""Values that a person gives: whole numbers, and yes or no. Python takes True for 1 and text for true; here each is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import Attribute

from scalekv_core.errors import InputError, shortened


def is_whole(value: object, least: int | None = None) -> bool:
    """Whether a value is a whole number, of at least so much.

    >>> is_whole(1, 1), is_whole(True), is_whole(1.0), is_whole(0, 1)
    (True, False, False, False)
    """
    return isinstance(value, int) and not isinstance(value, bool) and (least is None or value >= least)


def check_whole(value: Any, who: str, name: str, *, least: int | None = None) -> None:
    """Raises InputError unless a value is a whole number, of at least so much.

    >>> check_whole(True, "a study", "batch", least=1)
    Traceback (most recent call last):
    scalekv_core.errors.InputError: a study needs batch to be a whole number of at least 1; got True
    """
    if not is_whole(value, least):
        bound = "" if least is None else f" of at least {least}"
        raise InputError(f"{who} needs {name} to be a whole number{bound}; got {shortened(value)}")


def check_flag(value: Any, who: str, name: str) -> None:
    """Raises InputError unless a value is True or False.

    >>> check_flag("no", "sampling", "greedy")
    Traceback (most recent call last):
    scalekv_core.errors.InputError: sampling needs greedy to be True or False; got 'no'
    """
    if not isinstance(value, bool):
        raise InputError(f"{who} needs {name} to be True or False; got {shortened(value)}")


def whole(least: int | None = None) -> Callable[[Any, Attribute[Any], Any], None]:
    """An attrs validator: :func:`check_whole`."""

    def check(instance: Any, attribute: Attribute[Any], value: Any) -> None:
        check_whole(value, type(instance).__name__, attribute.name, least=least)

    return check


def flag(instance: Any, attribute: Attribute[Any], value: Any) -> None:
    """An attrs validator: :func:`check_flag`."""
    check_flag(value, type(instance).__name__, attribute.name)
