"""Methods that were renamed: for one version, classes may still define them and callers may still call them by their old name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar


class FormerNames:
    """A base class whose methods have former names.

    Attributes:
        former_names: {former name: name}.
    """

    former_names: ClassVar[Mapping[str, str]] = {}

    def __init_subclass__(cls, **options: Any) -> None:
        """A subclass that defines a method under its former name defines it under the new one."""
        super().__init_subclass__(**options)
        for former, name in cls.former_names.items():
            if former in vars(cls) and name not in vars(cls):
                setattr(cls, name, vars(cls)[former])

    def __getattr__(self, name: str) -> Any:
        """A method by its former name."""
        if name in self.former_names:
            return getattr(self, self.former_names[name])
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
