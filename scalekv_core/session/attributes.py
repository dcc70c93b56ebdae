"""Saves the attributes of a model's parts, to restore them if an adapter is interrupted while it changes them."""

from __future__ import annotations

from typing import Any

from attrs import frozen
from torch import nn


@frozen(eq=False)
class Attributes:
    """The attributes of a module and all its parts: hooks, parameters and modules by reference, nothing copied.

    >>> layer = nn.Linear(1, 1)
    >>> before = Attributes.of(layer)
    >>> layer.forward = None
    >>> before.restore()
    >>> "forward" in vars(layer)
    False
    """

    parts: tuple[tuple[nn.Module, dict[str, Any]], ...]
    tables: tuple[tuple[dict[Any, Any], dict[Any, Any]], ...]

    @classmethod
    def of(cls, module: nn.Module) -> Attributes:
        """Saves the attributes."""
        parts = tuple((part, dict(vars(part))) for part in module.modules())
        tables = tuple((x, dict(x)) for _, held in parts for x in held.values() if isinstance(x, dict))
        return cls(parts, tables)

    def restore(self) -> None:
        """Restores the attributes."""
        for table, held in self.tables:
            table.clear()
            table.update(held)
        for part, held in self.parts:
            vars(part).clear()
            vars(part).update(held)
