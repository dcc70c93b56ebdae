"""What the sizes of every family's models have in common."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import attrs

from scalekv_core.errors import InputError, shortened
from scalekv_core.shapes.values import is_whole


def positive(instance: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    """An attrs validator: InputError unless the size, or each of several, is a whole number of at least 1."""
    sizes = value if isinstance(value, tuple) else (value,)
    if not sizes or not all(is_whole(size, 1) for size in sizes):
        raise InputError(
            f"{type(instance).__name__}: {attribute.name} must be a whole number of at least 1, got {shortened(value)}"
        )


def in_groups(instance: object, attribute: attrs.Attribute[int], value: int) -> None:
    """An attrs validator: InputError unless the channels can be normalised in 32 groups."""
    if not is_whole(value, 1) or value % 32:
        name = f"{type(instance).__name__}: {attribute.name}"
        raise InputError(f"{name} must be a multiple of 32 (group norm), got {shortened(value)}")


def as_sizes(sizes: Iterable[int]) -> tuple[int, ...]:
    """An attrs converter: whatever a person or a file wrote, as a tuple; InputError unless it is of whole numbers.

    >>> as_sizes([1, 2, 4])
    (1, 2, 4)
    """
    given = tuple(sizes)
    if not all(map(is_whole, given)):
        raise InputError(f"sizes are whole numbers; got {shortened(given)}")
    return given
