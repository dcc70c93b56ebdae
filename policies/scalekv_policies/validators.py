"""Validators that several policies share."""

from __future__ import annotations

from typing import Any

from attrs import Attribute


def is_odd(instance: Any, attribute: Attribute[int], value: int) -> None:
    """Refuses an even number: a pooling window needs a middle."""
    if value % 2 != 1:
        raise ValueError(f"{attribute.name!r} must be odd; got {value}")
