"""A TOML file that says which policies to run, and how.

A file looks like this; every line is optional::

    policy = "scalekv"            # or a list of names
    budget = "10% of history"

    [options]                     # each goes to the part that has it
    window = 9

    [selector]                    # or classifier, allocator, merger, codec
    name = "h2o"                  # another part; without it, options of the policy's own
    recent = 0.25
"""

from __future__ import annotations

import difflib
import functools
import operator
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import cattrs
from attrs import field, frozen
from cattrs.errors import ForbiddenExtraKeysError

from scalekv_core.errors import InputError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@frozen(kw_only=True)
class PartTable:
    """What a file says about one part of the policy.

    Attributes:
        name: the part's name; None leaves the policy's own.
        options: {option: value} of it.
    """

    name: str | None = None
    options: Mapping[str, Any] = field(factory=dict)

    @classmethod
    def read(cls, value: Any) -> PartTable:
        """From a name or a table."""
        if isinstance(value, str):
            return cls(name=value)
        if not isinstance(value, Mapping) or not isinstance(value.get("name", ""), str):
            raise ValueError(f"a part is a name or a table with a name and options; got {value!r}")
        return cls(name=value.get("name"), options={key: v for key, v in value.items() if key != "name"})


@frozen(kw_only=True)
class PolicyFile:
    """What a TOML file says. Its fields are the keys that the file may have."""

    policy: tuple[str, ...] = ()
    budget: str | None = None
    options: Mapping[str, Any] = field(factory=dict)
    classifier: PartTable = field(factory=PartTable)
    allocator: PartTable = field(factory=PartTable)
    selector: PartTable = field(factory=PartTable)
    merger: PartTable = field(factory=PartTable)
    codec: PartTable = field(factory=PartTable)

    @classmethod
    def load(cls, path: Path) -> PolicyFile:
        """The content of a file.

        Raises:
            InputError: there is no such file, it is not TOML, or it has an unknown key or a value of the wrong kind.
        """
        try:
            return _converter.structure(tomllib.loads(path.read_text(encoding="utf-8")), cls)
        except OSError as error:
            raise InputError(f"config file {path} cannot be read: {error.strerror}") from error
        except ForbiddenExtraKeysError as error:
            raise InputError(_unknown_key(path, sorted(error.extra_fields)[0])) from error
        except (ValueError, TypeError) as error:  # TOMLDecodeError and UnicodeDecodeError are ValueErrors
            raise InputError(f"config file {path}: {error}") from error


def _names(value: Any, _: Any) -> tuple[str, ...]:
    names = (value,) if isinstance(value, str) else value
    if not isinstance(names, (list, tuple)) or not names or not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"policy is a name or a list of names; got {value!r}")
    return tuple(names)


def _text(value: Any, _: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"budget is a text such as '10%'; got {value!r}")
    return value


def _table(value: Any, _: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"options is a table of names and values; got {value!r}")
    return value


def _unknown_key(path: Path, key: str) -> str:
    known = [f.name for f in attrs.fields(PolicyFile)]
    near = difflib.get_close_matches(key, known, n=1)
    guess = f"; did you mean {near[0]!r}?" if near else "."
    return f"config file {path} has an unknown key {key!r}{guess} It may have: {', '.join(known)}"


_converter = cattrs.Converter(forbid_extra_keys=True, detailed_validation=False)
for _field, _read in (("policy", _names), ("budget", _text), ("options", _table)):
    _hint = attrs.fields_dict(attrs.resolve_types(PolicyFile))[_field].type
    _converter.register_structure_hook_func(functools.partial(operator.eq, _hint), _read)
_converter.register_structure_hook(PartTable, lambda value, _: PartTable.read(value))
