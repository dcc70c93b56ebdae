"""The store of a study: its question and its finished cells.

A task (one setting, one batch of images) is written in one transaction when it is finished, so that whatever ends the
process ends it between two tasks. Rows have natural keys: a task that two processes finish is stored once. Figures are
rows of their own, so that SQL, datasette and pandas read them without knowing the metrics.
"""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import field, frozen

from scalekv_core.compare import claims, database
from scalekv_core.compare.cells import WHOLE, Cell, Figure
from scalekv_core.compare.picture_files import IMAGES, keep_picture
from scalekv_core.compare.question import Question, Setting, differences
from scalekv_core.errors import InputError

UNMODIFIED = "unmodified"
"""Key of the setting that stands for the unmodified model."""

_STARTED = int(time.time())
"""With its number it names a process: numbers are used again."""


@frozen(eq=False)
class Store:
    """An open study.

    Attributes:
        folder: where it lies.
        db: the connection; every write is a transaction of its own.
    """

    folder: Path
    db: sqlite3.Connection = field(repr=False)

    @classmethod
    def create(cls, folder: Path, question: Question, environment: Mapping[str, Any], *, command: str = "") -> Store:
        """Opens the study of this question in a folder, or makes a new one.

        Raises:
            InputError: the folder has a study of another question or environment, or cannot be written.
            StudyError: the file is damaged or something else, or the disk is full.
        """
        try:
            (folder / IMAGES).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"study folder {folder} cannot be written: {error.strerror}") from error
        with database.named(folder):
            store = cls(folder, database.writable(folder / database.FILE))
            with database.transaction(store.db):
                if database.is_empty(store.db):
                    store._begin(question, environment, command)
        store.check_same(question, environment)
        return store

    @classmethod
    def open(cls, folder: Path) -> Store:
        """Opens the study in a folder for reading.

        Raises:
            InputError: there is none, or the file is something else.
            StudyError: the file is damaged.
        """
        file = folder if folder.is_file() else folder / database.FILE
        if not file.is_file():
            raise InputError(f"there is no study in {folder}: {file} does not exist; make one with scalekv compare")
        with database.named(folder):
            store = cls(file.parent, database.readable(file))
            database.check_version(store.db, file)
        return store

    def close(self) -> None:
        """Closes the file."""
        database.close(self.db)

    # -- what was asked ---------------------------------------------------------------------------------------------

    @property
    def question(self) -> dict[str, Any]:
        """The question, as plain values."""
        return self._record("question")

    @property
    def environment(self) -> dict[str, Any]:
        """Versions, device, hashes of weights and profiles, as plain values."""
        return self._record("environment")

    @property
    def command(self) -> str:
        """The command that started the study."""
        return str(self.rows("SELECT command FROM study")[0][0] or "")

    def rows(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """The rows that a query finds.

        Raises:
            StudyError: the file is damaged.
        """
        with database.named(self.folder):
            return self.db.execute(sql, values).fetchall()

    def add_setting(
        self, setting: Setting, *, planned: int | None, unmodified: int | None, refused: str | None
    ) -> None:
        """Records a setting with its planned bytes, or why it cannot be measured."""
        row = (setting.key, setting.model, setting.label, setting.policy, setting.budget, setting.codec)
        options = json.dumps(dict(setting.options), sort_keys=True)
        with database.named(self.folder), database.transaction(self.db):
            self.db.execute(
                "INSERT INTO setting (key, model, label, policy, budget, codec, options, planned_bytes, unmodified_bytes, refused)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO NOTHING",
                (*row, options, planned, unmodified, refused),
            )

    # -- tasks ------------------------------------------------------------------------------------------------------

    @property
    def cells(self) -> int:
        """How many cells of settings are finished, failed ones too."""
        return sum(number for _, number in self.cells_by_model)

    @property
    def cells_by_model(self) -> list[tuple[str, int]]:
        """(model, how many of its settings' cells are finished)."""
        query = (
            "SELECT s.model, COUNT(*) FROM cell c JOIN setting s ON s.id = c.setting WHERE s.key != ? GROUP BY s.model"
        )
        return [(str(model), int(number)) for model, number in self.rows(query, (UNMODIFIED,))]

    def finished(self, key: str, images: Sequence[tuple[str, int]], model: str) -> bool:
        """Whether a setting has a cell for each of these images."""
        marks = ", ".join(["(?, ?)"] * len(images))
        (row,) = self.rows(
            "SELECT COUNT(*) FROM cell c JOIN setting s ON s.id = c.setting JOIN image i ON i.id = c.image"
            f" WHERE s.key = ? AND i.model = ? AND (i.prompt, i.seed) IN (VALUES {marks})",
            (key, model, *(value for image in images for value in image)),
        )
        return bool(row[0] == len(images))

    def claim(self, key: str, batch: int) -> bool:
        """Whether this process may work on a task now: no other process does, or the one that did has ended."""
        with database.named(self.folder), database.transaction(self.db):
            return claims.claim(self.db, self._setting(key), batch)

    @property
    def others(self) -> list[str]:
        """Other processes that work on this study now."""
        with database.named(self.folder):
            return claims.others(self.db)

    def finish(self, key: str, model: str, batch: int, cells: Sequence[Cell]) -> None:
        """Writes a finished task, in one transaction; pictures are on the disk before it."""
        files = [None if cell.picture is None else keep_picture(self.folder, cell.picture) for cell in cells]
        with database.named(self.folder), database.transaction(self.db):
            setting = self._setting(key)
            for cell, file in zip(cells, files, strict=True):
                self._write_cell(setting, self._image(model, cell), cell, file)
            claims.release(self.db, setting, batch)

    def _image(self, model: str, cell: Cell) -> int:
        named = (model, cell.prompt, cell.seed)
        self.db.execute("INSERT INTO image (model, prompt, seed) VALUES (?, ?, ?) ON CONFLICT DO NOTHING", named)
        found = self.db.execute("SELECT id FROM image WHERE model = ? AND prompt = ? AND seed = ?", named).fetchone()
        return int(found[0])

    def _write_cell(self, setting: int, image: int, cell: Cell, file: str | None) -> None:
        worker = f"{socket.gethostname()}:{os.getpid()}:{_STARTED}"
        new = self.db.execute(
            "INSERT INTO cell (setting, image, file, seconds, unmodified_seconds, resident_bytes, peak_bytes, selection_share,"
            " failed, worker, finished) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING RETURNING id",
            (setting, image, file, *cell.measured, cell.failed, worker, _now()),
        ).fetchone()
        if new is not None:
            rows = [(new[0], f.metric, f.scale, *f.stored) for f in cell.figures]
            self.db.executemany("INSERT INTO figure VALUES (?, ?, ?, ?, ?)", rows)

    # -- images -----------------------------------------------------------------------------------------------------

    def pictures(self, key: str, model: str) -> dict[tuple[str, int], str]:
        """{(prompt, seed): file} of the images of a setting."""
        rows = self.rows(
            "SELECT i.prompt, i.seed, c.file FROM cell c JOIN setting s ON s.id = c.setting JOIN image i ON i.id = c.image"
            " WHERE s.key = ? AND i.model = ? AND c.file IS NOT NULL",
            (key, model),
        )
        return {(prompt, seed): file for prompt, seed, file in rows}

    def scale_means(self, setting: int) -> list[tuple[Any, ...]]:
        """(metric, mean over images) by scale, of a compact copy; empty where the store has the figures of every image."""
        if not self.rows("SELECT 1 FROM sqlite_master WHERE name = 'scale_mean'"):
            return []
        return self.rows("SELECT metric, value FROM scale_mean WHERE setting = ? ORDER BY metric, scale", (setting,))

    def set_figure(self, key: str, metric: str, value: float, images: int) -> None:
        """Writes the figure of all images of a setting; a figure of fewer images is replaced."""
        stored = Figure(metric=metric, scale=WHOLE, value=value).stored
        with database.named(self.folder), database.transaction(self.db):
            self.db.execute(
                "REPLACE INTO set_figure VALUES (?, ?, ?, ?, ?)", (self._setting(key), metric, *stored, images)
            )

    # -- inside -----------------------------------------------------------------------------------------------------

    def _begin(self, question: Question, environment: Mapping[str, Any], command: str) -> None:
        for statement in database.SCHEMA.split(";"):
            self.db.execute(statement)
        asked = json.dumps(question.as_dict(), sort_keys=True)
        ran_on = json.dumps(dict(environment), sort_keys=True)
        self.db.execute(
            "INSERT INTO study VALUES (?, ?, ?, ?, ?, ?)",
            (database.VERSION, question.fingerprint, asked, ran_on, command, _now()),
        )
        self.db.execute(
            "INSERT INTO setting (key, model, label, policy, budget, codec, options) VALUES (?, '', ?, ?, '', '', '{}')",
            (UNMODIFIED, UNMODIFIED, UNMODIFIED),
        )

    def check_same(self, question: Question, environment: Mapping[str, Any]) -> None:
        """Raises InputError, which names what differs, if this is not the study of that question and environment."""
        found = differences(question.as_dict(), self.question)
        found += differences(json.loads(json.dumps(dict(environment))), self.environment)
        if found:
            raise InputError(
                f"folder {self.folder} holds another study, which differs in {'; '.join(found)}; choose another folder, or give "
                "the same settings"
            )

    def _record(self, column: str) -> dict[str, Any]:
        (row,) = self.rows(f"SELECT {column} FROM study")
        try:
            return dict(json.loads(row[0]))
        except (TypeError, ValueError) as error:
            raise database.StudyError(
                f"study file {self.folder / database.FILE} is damaged: its {column} cannot be read"
            ) from error

    def _setting(self, key: str) -> int:
        return int(self.db.execute("SELECT id FROM setting WHERE key = ?", (key,)).fetchone()[0])


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
