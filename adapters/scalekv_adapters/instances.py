"""Changing one instance and changing it back: how every adapter of this room attaches, so that classes stay untouched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def replace_attributes(instance: object, **attributes: Any) -> Callable[[], None]:
    """Sets attributes of this instance; what comes back restores its ``__dict__`` exactly.

    What the instance had of its own is put back, and what it only had from its class is its class's again.

    >>> class Bell:
    ...     def ring(self):
    ...         return "ding"
    >>> bell = Bell()
    >>> restore = replace_attributes(bell, ring=lambda: "dong")
    >>> bell.ring()
    'dong'
    >>> restore()
    >>> bell.ring(), vars(bell)
    ('ding', {})
    """
    own = vars(instance)
    before = {name: own[name] for name in attributes if name in own}
    own.update(attributes)

    def restore() -> None:
        for name in attributes:
            if name in before:
                own[name] = before[name]
            else:
                own.pop(name, None)

    return restore
