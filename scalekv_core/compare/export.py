"""A study as a table with one line for every image and metric: CSV, JSON lines or Parquet, written a few lines at a time."""

from __future__ import annotations

import csv
import json
import math
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from scalekv_core.compare.compact import write_compact
from scalekv_core.compare.store import Store
from scalekv_core.errors import InputError, missing_extra

AT_ONCE = 10_000
"""Lines of a Parquet row group."""
WHOLE_NUMBERS = ("seed", "resident_bytes", "peak_bytes")
NUMBERS = ("value", "seconds", "unmodified_seconds", "selection_share")
"""Columns of the view ``result`` that are not text."""


def export(store: Store, file: Path) -> None:
    """Writes a study in the format of the file's suffix; ``.sqlite`` is the compact copy.

    Raises:
        InputError: another ending, or the file cannot be written.
        MissingExtra: pyarrow is not installed.
    """
    writers: dict[str, Callable[[Path, sqlite3.Cursor], None]] = {".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}
    if file.suffix == ".sqlite":
        return write_compact(store, file)
    if file.suffix not in writers:
        raise InputError(f"--export writes {', '.join([*writers, '.sqlite'])}; got {file}")
    try:
        writers[file.suffix](file, store.db.execute("SELECT * FROM result"))
    except OSError as error:
        raise InputError(f"{file} cannot be written: {error.strerror}") from error


def _names(rows: sqlite3.Cursor) -> list[str]:
    return [column[0] for column in rows.description]


def _csv(file: Path, rows: sqlite3.Cursor) -> None:
    with file.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow(_names(rows))
        writer.writerows(rows)


def _jsonl(file: Path, rows: sqlite3.Cursor) -> None:
    names = _names(rows)
    with file.open("w", encoding="utf-8") as out:
        for row in rows:
            out.write(json.dumps(_plain(dict(zip(names, row, strict=True))), allow_nan=False) + "\n")


def _plain(record: dict[str, Any]) -> dict[str, Any]:
    """A line without infinity, which JSON does not have: null, and the note says so."""
    if isinstance(record["value"], float) and math.isinf(record["value"]):
        record |= {"value": None, "note": "infinite" if record["value"] > 0 else "minus infinite"}
    return record


def _parquet(file: Path, rows: sqlite3.Cursor) -> None:
    try:
        import pyarrow
        from pyarrow.parquet import ParquetWriter
    except ImportError as error:
        raise missing_extra("pyarrow", "parquet", "scalekv compare --export FILE.parquet") from error
    types = {name: pyarrow.int64() for name in WHOLE_NUMBERS} | {name: pyarrow.float64() for name in NUMBERS}
    schema = pyarrow.schema([(name, types.get(name, pyarrow.string())) for name in _names(rows)])
    with ParquetWriter(file, schema) as out:
        for some in _groups(rows):
            columns = [
                pyarrow.array(values, kind) for values, kind in zip(zip(*some, strict=True), schema.types, strict=True)
            ]
            out.write_table(pyarrow.table(columns, schema=schema))


def _groups(rows: sqlite3.Cursor) -> Iterator[Sequence[Sequence[Any]]]:
    while some := rows.fetchmany(AT_ONCE):
        yield some
