"""Groups of options: what several commands take alike is declared once, as the fields of a frozen class.

A command with a parameter of such a class gets an option for each field, in that place of its help, and is called with
the filled-in value.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any, get_type_hints

import attrs


def with_groups(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the signature that typer reads: an option for each field of each group.

    >>> @attrs.frozen
    ... class Shape:
    ...     width: int = 1
    ...     height: int = 2
    >>> def area(unit: str, shape: Shape = Shape()) -> None:
    ...     print(shape.width * shape.height, unit)
    >>> list(inspect.signature(with_groups(area)).parameters)
    ['unit', 'width', 'height']
    >>> with_groups(area)(unit="pixels", height=3)
    3 pixels
    """
    declared = inspect.signature(command, eval_str=True).parameters.values()
    groups = {parameter.name: parameter.annotation for parameter in declared if attrs.has(parameter.annotation)}

    @functools.wraps(command)
    def run(**values: Any) -> None:
        for name, group in groups.items():
            given = {field.name: values.pop(field.name) for field in attrs.fields(group) if field.name in values}
            values[name] = group(**given)
        command(**values)

    parameters = [one for parameter in declared for one in _options_of(parameter)]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _options_of(parameter: inspect.Parameter) -> Iterator[inspect.Parameter]:
    if not attrs.has(parameter.annotation):
        yield parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        return
    hints = get_type_hints(parameter.annotation, include_extras=True)
    for field in attrs.fields(parameter.annotation):
        yield inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name]
        )
