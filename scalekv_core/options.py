"""Options of strategies: the fields of their attrs classes, set from Python values, command-line text or TOML."""

from __future__ import annotations

import difflib
import types
from collections.abc import Mapping
from typing import Any, Union, get_args, get_origin

import attrs
import cattrs

from scalekv_core.errors import InputError

_converter = cattrs.Converter(detailed_validation=False)


def _structure_bool(value: Any, _: type) -> bool:
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if str(value).lower() not in words:
        raise ValueError("wanted true or false")
    return words[str(value).lower()]


_converter.register_structure_hook(bool, _structure_bool)


def options_of(strategy: Any) -> dict[str, Any]:
    """{option: value} of a strategy, in the order they are declared.

    >>> from scalekv_core.defaults import Dense
    >>> options_of(Dense())
    {}
    """
    if not attrs.has(type(strategy)):
        return {}
    return {field.name: getattr(strategy, field.name) for field in attrs.fields(type(strategy)) if field.init}


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
    raise InputError(_no_option(f"policy {owner!r}", name, known))


def _no_option(owner: str, name: str, known: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    guess = f"; did you mean {near[0]!r}?" if near else "."
    listed = ", ".join(f"{option}={value}" for option, value in known.items()) or "none"
    return f"{owner} has no option {name!r}{guess} It has: {listed}"


def _read(owner: str, name: str, value: Any, hint: Any) -> Any:
    if not isinstance(value, str) and get_origin(hint) not in (tuple,):
        return _typed(owner, name, value, hint)
    if isinstance(value, str) and value.lower() == "none" and _allows_none(hint):
        return None
    return _typed(owner, name, value, hint)


def _typed(owner: str, name: str, value: Any, hint: Any) -> Any:
    try:
        if isinstance(value, float) and hint is int and not value.is_integer():
            raise ValueError("wanted a whole number")
        return value if value is None and _allows_none(hint) else _converter.structure(value, _without_none(hint))
    except Exception as error:
        raise InputError(f"{owner} cannot take {name}={value!r}: wanted {_describe(hint)}") from error


def _allows_none(hint: Any) -> bool:
    return get_origin(hint) in (Union, types.UnionType) and type(None) in get_args(hint)


def _without_none(hint: Any) -> Any:
    if not _allows_none(hint):
        return hint
    rest = [arg for arg in get_args(hint) if arg is not type(None)]
    return rest[0] if len(rest) == 1 else Union[tuple(rest)]  # noqa: UP007  built from data


def _describe(hint: Any) -> str:
    plain = _without_none(hint)
    if args := get_args(plain):
        return "one of " + ", ".join(str(arg) for arg in args)
    return str(getattr(plain, "__name__", plain))


def _reason(error: Exception) -> str:
    text = error.args[0] if error.args else error
    return str(text).splitlines()[0]
