"""A question in a TOML file. Its keys are those of :class:`~scalekv_core.compare.question.Question`, prompts by set or file::

models = ["var-tiny"]
policies = ["scalekv", "fold"]
budgets = ["10%", "5%"]
codecs = ["int8"]
seeds = [0, 1]

[vary]
window = ["4", "16"]

[prompts]
var-tiny = "digits"

[sampling]
guidance = 3.0
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
from attrs import field, frozen

from scalekv_core.errors import InputError, unknown_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def _texts(value: Any) -> tuple[str, ...]:
    values = value if isinstance(value, (list, tuple)) else (value,)
    if not all(isinstance(one, (str, int, float)) and not isinstance(one, bool) for one in values):
        raise ValueError(f"wanted a text or a list of texts; got {value!r}")
    return tuple(str(one) for one in values)


@frozen(kw_only=True)
class QuestionFile:
    """The content of a question file; everything is optional."""

    models: tuple[str, ...] = field(default=(), converter=_texts)
    policies: tuple[str, ...] = field(default=(), converter=_texts)
    budgets: tuple[str, ...] = field(default=(), converter=_texts)
    codecs: tuple[str, ...] = field(default=(), converter=_texts)
    vary: Mapping[str, tuple[str, ...]] = field(factory=dict)
    prompts: Mapping[str, str] = field(factory=dict)
    seeds: tuple[int, ...] = ()
    sampling: Mapping[str, Any] = field(factory=dict)
    aspect: str | None = None
    size: str | None = None
    dtype: str | None = None
    metrics: tuple[str, ...] = field(default=(), converter=_texts)
    batch: int | None = None

    @classmethod
    def load(cls, path: Path) -> QuestionFile:
        """Reads a question file.

        Raises:
            InputError: it cannot be read, is not TOML, or has a key or value that is not understood.
        """
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(f"study file {path} cannot be read: {error.strerror}") from error
        except ValueError as error:  # TOMLDecodeError and UnicodeDecodeError
            raise InputError(f"study file {path}: {error}") from error
        known = [one.name for one in attrs.fields(cls)]
        for key in table:
            if key not in known:
                raise InputError(f"study file {path}: {unknown_name('key', key, known)}")
            if names_nothing(table[key]):
                raise InputError(
                    f"study file {path}: {key} is empty, which names nothing; give a value, or leave it out"
                )
        try:
            return cls(**{key: _read(key, value) for key, value in table.items()})
        except (ValueError, TypeError) as error:
            raise InputError(f"study file {path}: {error}") from error


def names_nothing(value: Any) -> bool:
    """Whether a value of a file, or one in it, is an empty text or list. It would be taken for what was never said.

    >>> names_nothing({"window": []}), names_nothing(["10%", ""]), names_nothing(0), names_nothing({})
    (True, True, False, False)
    """
    if isinstance(value, Mapping):
        return any(map(names_nothing, value.values()))
    if isinstance(value, list):
        return not value or any(map(names_nothing, value))
    return isinstance(value, str) and not value.strip()


def _read(key: str, value: Any) -> Any:
    """Converts a value of the file to the type of its field."""
    if key in ("aspect", "size", "dtype") and not isinstance(value, str):
        raise ValueError(f"{key} is a text; got {value!r}")
    if key in ("vary", "prompts", "sampling"):
        if not isinstance(value, Mapping):
            raise ValueError(f"[{key}] must be a table; got {value!r}")
        if key == "prompts" and (wrong := [v for v in value.values() if not isinstance(v, str)]):
            raise ValueError(f"[prompts] names a set or a file for each model; got {wrong[0]!r}")
        return {name: _texts(v) for name, v in value.items()} if key == "vary" else dict(value)
    if key == "seeds":
        return tuple(value) if isinstance(value, list) else (value,)
    return value
