"""The base of all cases: a case is written as a line of text, and can be made again from it.

A case holds sizes, names and a seed; tensors are made from it. Only what differs from the smallest case is written, so
that the smallest failing case is a short line: ``maps=1x1,1x2 scale=1 content=tied``.
"""

from __future__ import annotations

from typing import Any, TypeVar

import attrs
from attrs import frozen

from scalekv_core.errors import InputError
from scalekv_core.shapes.schedule import ScaleSchedule

AnyCase = TypeVar("AnyCase", bound="Case")


def read_maps(maps: str | ScaleSchedule) -> ScaleSchedule:
    """Reads a schedule from text like ``1x1,2x3``.

    >>> read_maps("1x1,2x2x3").maps
    ((1, 1, 1), (2, 2, 3))
    """
    if isinstance(maps, ScaleSchedule):
        return maps
    return ScaleSchedule([tuple(int(side) for side in sizes.split("x")) for sizes in maps.split(",")])


@frozen(kw_only=True)
class Case:
    """A small input for a check."""

    def __str__(self) -> str:
        """The case as a line: its first field, and every other one that differs from the smallest case."""
        smallest, names = type(self)(), [field.name for field in attrs.fields(type(self))]
        changed = [name for name in names if getattr(self, name) != getattr(smallest, name) or name == names[0]]
        return " ".join(f"{name}={_word(getattr(self, name))}" for name in changed)

    def with_several(self: AnyCase, **least: int) -> AnyCase:
        """The case with at least so many rows, heads or other sizes, since a mix-up cannot show with only one."""
        return attrs.evolve(self, **{name: max(number, getattr(self, name)) for name, number in least.items()})

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """What Hypothesis prints: the call that makes the case again."""
        printer.text(repr(self))

    @classmethod
    def parse(cls: type[AnyCase], line: str) -> AnyCase:
        """Makes the case that a line describes.

        Raises:
            InputError: it has no such field, or a value is of another type.

        >>> from scalekv_core.testing import ViewCase
        >>> ViewCase.parse("maps=1x1,2x3,1x1 scale=1 keep=4").tokens
        6
        """
        smallest = cls()
        values: dict[str, Any] = {}
        for word in line.split():
            name, _, text = word.partition("=")
            if not hasattr(smallest, name):
                known = ", ".join(f.name for f in attrs.fields(cls))
                raise InputError(f"case {line!r}: a {cls.__name__} has no {name!r}; it has {known}")
            values[name] = _read(name, text, getattr(smallest, name))
        try:
            return cls(**values)
        except ValueError as error:
            raise InputError(f"case {line!r}: {error.args[0]}") from error


def _word(value: Any) -> str:
    return str(value).replace(" ", "," if isinstance(value, ScaleSchedule) else "_")


def _read(name: str, text: str, like: Any) -> Any:
    try:
        if isinstance(like, bool):
            return {"True": True, "False": False}[text]
        return type(like)(text) if isinstance(like, int) else text.replace("_", " ")
    except (KeyError, ValueError) as error:
        raise InputError(f"case: {name} is of type {type(like).__name__}; got {text!r}") from error
