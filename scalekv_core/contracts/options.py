"""Options of strategies: the fields of their attrs classes, set from Python values, command-line text or TOML."""

from __future__ import annotations

import difflib
import re
import types
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Union, get_args, get_origin

import attrs
import cattrs

from scalekv_core.errors import InputError, first_line

_converter = cattrs.Converter(detailed_validation=False)


def _structure_bool(value: Any, _: type) -> bool:
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    return words[str(value).lower()]


def _structure_int(value: Any, _: type) -> int:
    if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        raise ValueError(value)
    return int(value)


def _structure_float(value: Any, _: type) -> float:
    if isinstance(value, bool):
        raise ValueError(value)
    return float(value)


def _structure_str(value: Any, _: type) -> str:
    if not isinstance(value, str):
        raise ValueError(value)
    return value


_converter.register_structure_hook(bool, _structure_bool)
_converter.register_structure_hook(int, _structure_int)
_converter.register_structure_hook(float, _structure_float)
_converter.register_structure_hook(str, _structure_str)


def options_of(strategy: Any) -> dict[str, Any]:
    """{option: value} of a strategy, in the order they are declared.

    >>> from scalekv_core.contracts.defaults import Dense
    >>> options_of(Dense())
    {}
    """
    if not attrs.has(type(strategy)):
        return {}
    return {field.name: getattr(strategy, field.name) for field in attrs.fields(type(strategy)) if field.init}


def check_numbers(owner: str, strategy: Any) -> None:
    """Refuses True and False for a number, and a fraction for a whole number: Python would compute with them.

    Options are checked by what their class declares (``window: int``); anything else is the class's own business.

    Raises:
        InputError: says which option.
    """
    for one in attrs.fields(type(strategy)) if attrs.has(type(strategy)) else ():
        declared = set(re.findall(r"\w+", str(getattr(one.type, "__name__", one.type))))
        value = getattr(strategy, one.name, None)
        several = value if isinstance(value, tuple) else (value,)
        no_number = "bool" not in declared and any(isinstance(each, bool) for each in several)
        no_whole = "float" not in declared and any(isinstance(each, float) for each in several)
        if (no_number and declared & {"int", "float"}) or (no_whole and "int" in declared):
            kind = "a number" if "float" in declared else "a whole number"
            raise InputError(f"{owner} needs {one.name} to be {kind}; got {value!r}")


def set_options(owner: str, strategy: Any, values: Mapping[str, Any]) -> Any:
    """The strategy with these options; text is read as the option's type.

    Args:
        owner: who it is, for the message.
        strategy: a frozen attrs value.
        values: {option: value or text}.

    Raises:
        InputError: unknown option, or a value that cannot be read or is refused by the option's validator.
    """
    cls = type(strategy)
    hints = {field.name: field.type for field in attrs.fields(attrs.resolve_types(cls))} if attrs.has(cls) else {}
    known = options_of(strategy)
    for name in values:
        if name not in known:
            raise InputError(_no_option(owner, name, known))
    read = {name: _read(owner, name, value, hints[name]) for name, value in values.items()}
    try:
        return attrs.evolve(strategy, **read) if read else strategy
    except (ValueError, TypeError) as error:
        given = ", ".join(f"{name}={value}" for name, value in values.items())
        raise InputError(f"{owner} refuses {given}: {_reason(error)}") from error


def assign_options(owner: str, parts: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """{part: strategy with its options}: each option goes to the one part that has it, or to ``part.option``.

    Raises:
        InputError: no part has the option, or several have it.
    """
    per_part: dict[str, dict[str, Any]] = {}
    for name, value in options.items():
        part, option = _find(owner, parts, name)
        per_part.setdefault(part, {})[option] = value
    return {part: set_options(f"{part} of policy {owner!r}", parts[part], values) for part, values in per_part.items()}


def _find(owner: str, parts: Mapping[str, Any], name: str) -> tuple[str, str]:
    part, dot, option = name.partition(".")
    if dot:
        if part not in parts:
            raise InputError(f"option {name!r}: a policy has the parts {', '.join(parts)}; got {part!r}")
        return part, option
    having = [part for part, strategy in parts.items() if name in options_of(strategy)]
    if len(having) == 1:
        return having[0], name
    if having:
        raise InputError(
            f"option {name!r} belongs to several parts of policy {owner!r}; say {' or '.join(f'{p}.{name}' for p in having)}"
        )
    known = {option: value for strategy in parts.values() for option, value in options_of(strategy).items()}
    raise InputError(_no_option(f"policy {owner!r}", name, known, also=parts))


def _no_option(owner: str, name: str, known: Mapping[str, Any], *, also: Iterable[str] = ()) -> str:
    """The message for an unknown option; ``also`` are other names that may have been meant."""
    near = difflib.get_close_matches(name, [*known, *also], n=1)
    guess = f"; did you mean {near[0]!r}?" if near else "."
    listed = ", ".join(f"{option}={value}" for option, value in known.items()) or "none"
    return f"{owner} has no option {name!r}{guess} It has: {listed}"


def _read(owner: str, name: str, value: Any, hint: Any) -> Any:
    """The value as the option's type; text is read as that type."""
    if _allows_none(hint) and (value is None or str(value).lower() == "none"):
        return None
    try:
        return _structured(value, _without_none(hint))
    except Exception as error:  # whatever a type raises that refuses a value
        raise InputError(f"{owner} cannot take {name}={value!r}: wanted {_describe(hint)}") from error


def _structured(value: Any, hint: Any) -> Any:
    if get_origin(hint) is Literal:
        return {str(choice): choice for choice in get_args(hint)}[str(value)]
    if get_origin(hint) is tuple and isinstance(value, str):
        value = [part.strip() for part in value.split(",")]
    return _converter.structure(value, hint)


def _allows_none(hint: Any) -> bool:
    return get_origin(hint) in (Union, types.UnionType) and type(None) in get_args(hint)


def _without_none(hint: Any) -> Any:
    if not _allows_none(hint):
        return hint
    rest = [arg for arg in get_args(hint) if arg is not type(None)]
    return rest[0] if len(rest) == 1 else Union[tuple(rest)]  # noqa: UP007  built from data


def _describe(hint: Any) -> str:
    if _allows_none(hint):
        return f"{_describe(_without_none(hint))} or none"
    if hint is bool:
        return "true or false"
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(str(choice) for choice in get_args(hint))
    if get_origin(hint) is tuple:
        kind = get_args(hint)[0].__name__
        return f"{kind},{kind},..."
    return str(getattr(hint, "__name__", hint))


def _reason(error: Exception) -> str:
    return first_line(error.args[0] if error.args else error)
