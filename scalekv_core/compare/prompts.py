"""Prompts of a study: from a text file, a CSV or JSONL file, or one of the sets that come with scalekv."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from scalekv_core.errors import InputError

MOST = 100_000
"""More prompts than this mean that the file is the wrong one."""
MOST_BYTES = 64 << 20


def read_prompts(path: Path) -> tuple[str, ...]:
    """The prompts in a file, in their order, without repetitions.

    Text has a prompt on every line; CSV has a column ``prompt``; JSONL has texts, or objects with a ``prompt``.

    Raises:
        InputError: the file cannot be read, has no prompts or too many, or a line is of another form.
    """
    if path.suffix.lower() not in _READERS:
        raise InputError(f"prompt file {path} must end in {', '.join(_READERS)}")
    try:
        if path.stat().st_size > MOST_BYTES:
            raise InputError(f"prompt file {path} has {path.stat().st_size:,} bytes; at most {MOST_BYTES:,} are read")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"prompt file {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"prompt file {path} is not text in UTF-8 (byte {error.start})") from error
    prompts = tuple(dict.fromkeys(p.strip() for p in _READERS[path.suffix.lower()](path, text) if p.strip()))
    if not prompts:
        raise InputError(f"prompt file {path} has no prompts")
    if len(prompts) > MOST:
        raise InputError(f"prompt file {path} has {len(prompts):,} prompts; a study takes at most {MOST:,}")
    return prompts


def _lines(path: Path, text: str) -> Iterator[str]:
    yield from text.splitlines()


def _csv(path: Path, text: str) -> Iterator[str]:
    rows = csv.DictReader(text.splitlines())
    if "prompt" not in (rows.fieldnames or ()):
        raise InputError(
            f"prompt file {path} needs a column 'prompt'; it has {', '.join(map(repr, rows.fieldnames or ())) or 'none'}"
        )
    try:
        yield from (row["prompt"] or "" for row in rows)
    except csv.Error as error:
        raise InputError(f"prompt file {path}, line {rows.line_num}: {error}") from error


def _jsonl(path: Path, text: str) -> Iterator[str]:
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            yield _json_prompt(path, number, line)


def _json_prompt(path: Path, number: int, line: str) -> str:
    try:
        value: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"prompt file {path}, line {number} is not JSON") from error
    value = value.get("prompt") if isinstance(value, dict) else value
    if not isinstance(value, str):
        raise InputError(f"prompt file {path}, line {number} must be a text, or an object with a text 'prompt'")
    return value


_READERS: dict[str, Callable[[Path, str], Iterator[str]]] = {".txt": _lines, ".csv": _csv, ".jsonl": _jsonl}


SETS = Path(__file__).parent / "prompt_sets"


def named_sets() -> list[str]:
    """The names of the sets that come with scalekv, sorted."""
    return sorted(file.stem for file in SETS.glob("*.txt"))


def prompts_named(text: str) -> tuple[str, ...]:
    """The prompts of a set by its name, or those of a file.

    Raises:
        InputError: it is neither, or the file cannot be used.

    >>> prompts_named("digits")[:3]
    ('0', '1', '2')
    """
    if text in named_sets():
        return read_prompts(SETS / f"{text}.txt")
    if Path(text).suffix.lower() in _READERS:
        return read_prompts(Path(text))
    raise InputError(
        f"prompts {text!r} are neither a set ({', '.join(named_sets())}) nor a file ending in {', '.join(_READERS)}"
    )
