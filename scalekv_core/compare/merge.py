"""Takes what other studies of the same question measured into a study, settings that it has none of; images where they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from scalekv_core.compare import database, growth
from scalekv_core.compare.compact import MEANS
from scalekv_core.compare.picture_files import IMAGES, copy_picture
from scalekv_core.compare.store import UNMODIFIED, Store, make_folder
from scalekv_core.errors import InputError

SETTING = "key, model, label, policy, budget, codec, options, planned_bytes, unmodified_bytes, refused"
CELL = "seconds, unmodified_seconds, resident_bytes, peak_bytes, selection_share, failed, worker, finished"


def take(folder: Path, others: Sequence[Store]) -> int:
    """Takes the settings of other studies into the one in a folder, which is made if it is not there; how many.

    Settings of which the study has cells stay as they are. Everything is written in one transaction.

    Raises:
        InputError: a study asks something else of its settings, ran elsewhere, or varies other options; the folder cannot be
            written.
        StudyError: a file is damaged, or the disk is full.
    """
    first = others[0]
    make_folder(folder)
    with database.named(folder):
        store = Store(folder, database.writable(folder / database.FILE))
        for file in _pictures(others):
            copy_picture(file, folder)
        with database.transaction(store.db):
            if database.is_empty(store.db):
                store.begin(first.question, first.environment, first.command)
            store.db.execute(MEANS)
            taken = sum(_take(store, other) for other in others)
    store.close()
    return taken


def _take(store: Store, other: Store) -> int:
    mine, theirs = store.question, other.question
    found = growth.apart((theirs, other.environment), (mine, store.environment))
    if set(mine["vary"]) != set(theirs["vary"]):
        found.append(f"varied options: {sorted(theirs['vary'])} here, {sorted(mine['vary'])} there")
    if found:
        raise InputError(f"study {other.folder} cannot be taken into {store.folder}: {'; '.join(found)}")
    commands = dict.fromkeys([*store.command.splitlines(), *other.command.splitlines()])
    known = growth.with_plugins(store.environment, other.environment)
    growth.ask(store, united(mine, theirs), known, "\n".join(commands))
    labels, done, there, taken = store.labels, store.cells_by_setting(), other.cells_by_setting(), 0
    for key in other.labels:
        if key not in labels or (key not in done and key in there):
            _take_setting(store, other, key)
            taken += 1
    _take_cells(store, other, UNMODIFIED)
    return taken


def _take_setting(store: Store, other: Store, key: str) -> None:
    (row,) = other.rows(f"SELECT {SETTING} FROM setting WHERE key = ?", (key,))
    marks = ", ".join("?" * len(row))
    store.db.execute(f"INSERT INTO setting ({SETTING}) VALUES ({marks}) ON CONFLICT (key) DO NOTHING", row)
    _take_cells(store, other, key)
    mine, theirs = store.setting(key), other.setting(key)
    for means in other.scale_rows(theirs):
        store.db.execute("INSERT INTO scale_mean VALUES (?, ?, ?, ?, ?)", (mine, *means))
    for figure in other.rows("SELECT metric, value, note, images FROM set_figure WHERE setting = ?", (theirs,)):
        store.db.execute("REPLACE INTO set_figure VALUES (?, ?, ?, ?, ?)", (mine, *figure))


def _take_cells(store: Store, other: Store, key: str) -> None:
    """Cells with their figures; an unmodified image that is there keeps its cell, and gets its file if it had none."""
    setting = store.setting(key)
    cells = other.rows(
        f"SELECT c.id, i.model, i.prompt, i.seed, c.file, {CELL} FROM cell c JOIN image i ON i.id = c.image WHERE c.setting = ?",
        (other.setting(key),),
    )
    for theirs, model, prompt, seed, *rest in cells:
        new = store.db.execute(
            f"INSERT INTO cell (setting, image, file, {CELL}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (setting, image) DO UPDATE SET file = COALESCE(file, excluded.file) RETURNING id",
            (setting, store.image(model, prompt, seed), *rest),
        ).fetchall()
        figures = other.rows("SELECT metric, scale, value, note FROM figure WHERE cell = ?", (theirs,))
        store.db.executemany("INSERT INTO figure VALUES (?, ?, ?, ?, ?)", [(new[0][0], *one) for one in figures])


def _pictures(others: Sequence[Store]) -> Iterator[Path]:
    """The files of images; a study without its images has none."""
    for other in others:
        for (name,) in other.rows("SELECT DISTINCT file FROM cell WHERE file IS NOT NULL"):
            file = other.folder / IMAGES / name
            if file.is_file():
                yield file


def united(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """A question that asks for the settings of both, in the order of the first; both vary the same options.

    >>> one = {"policies": ["fold"], "budgets": ["10%"], "codecs": [], "vary": {}}
    >>> united(one, {**one, "policies": ["h2o"], "codecs": ["int8"]})["codecs"]
    ['', 'int8']
    """
    found = {**mine, "vary": {name: _both(values, theirs["vary"][name]) for name, values in mine["vary"].items()}}
    for name in ("policies", "budgets"):
        found[name] = _both(mine[name], theirs[name])
    if mine["codecs"] != theirs["codecs"]:  # an empty text is the policy's own codec
        found["codecs"] = _both(mine["codecs"] or [""], theirs["codecs"] or [""])
    return found


def _both(mine: Sequence[str], theirs: Sequence[str]) -> list[str]:
    return [*mine, *(value for value in theirs if value not in mine)]
