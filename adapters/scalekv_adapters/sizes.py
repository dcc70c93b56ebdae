"""What the sizes of every family's models have in common."""

from __future__ import annotations

import attrs

from scalekv_core.errors import InputError


def positive(instance: object, attribute: attrs.Attribute[int], value: int) -> None:
    """An attrs validator: InputError unless the size is at least 1."""
    if value < 1:
        raise InputError(f"{type(instance).__name__}: {attribute.name} must be at least 1, got {value}")
