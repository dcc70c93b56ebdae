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

from scalekv_core.compare import claims, database, growth
from scalekv_core.compare.cells import NOT_A_NUMBER, WHOLE, Cell, Figure
from scalekv_core.compare.picture_files import IMAGES, keep_picture
from scalekv_core.compare.planning import PlannedSetting
from scalekv_core.compare.question import Question
from scalekv_core.errors import InputError

UNMODIFIED = "unmodified"
"""Key of the setting that stands for the unmodified model."""

ERRED = f"(f.scale = {WHOLE} AND f.value IS NULL AND f.note NOT LIKE '{NOT_A_NUMBER}%')"
"""Of a figure f, in SQL: its metric raised. Another try may succeed, unlike where the model itself computes no number."""

_FAILED = f"(c.failed IS NOT NULL OR EXISTS (SELECT 1 FROM figure f WHERE f.cell = c.id AND {ERRED}))"
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
    def create(
        cls,
        folder: Path,
        question: Question,
        environment: Mapping[str, Any],
        settings: Sequence[PlannedSetting] = (),
        *,
        command: str = "",
    ) -> Store:
        """Opens the study of this question in a folder, lets one grow that asks for fewer settings, or makes a new one.

        Raises:
            InputError: the folder has a study of another question or environment, or cannot be written.
            StudyError: the file is damaged or something else, or the disk is full.
        """
        make_folder(folder)
        asked, ran_on = question.as_dict(), json.loads(json.dumps(dict(environment)))
        with database.named(folder):
            store = cls(folder, database.writable(folder / database.FILE))
            with database.transaction(store.db):
                if database.is_empty(store.db):
                    store.begin(asked, ran_on, command)
                growth.grow(store, asked, ran_on, settings, command)
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

    @property
    def labels(self) -> dict[str, str]:
        """{key: label} of every setting, in the order in which they were asked for."""
        return dict(self.rows("SELECT key, label FROM setting WHERE key != ? ORDER BY id", (UNMODIFIED,)))

    def rows(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """The rows that a query finds.

        Raises:
            StudyError: the file is damaged.
        """
        with database.named(self.folder):
            return self.db.execute(sql, values).fetchall()

    def add_setting(self, planned: PlannedSetting) -> None:
        """Records a setting with its planned bytes, or why it cannot be measured; what was refused before may be planned now."""
        setting, footprint = planned.setting, planned.footprint
        row = (setting.key, setting.model, setting.label, setting.policy, setting.budget, setting.codec)
        options = json.dumps(dict(setting.options), sort_keys=True)
        sizes = (None, None) if footprint is None else (footprint.most_planned, footprint.unmodified)
        self.db.execute(
            "INSERT INTO setting (key, model, label, policy, budget, codec, options, planned_bytes, unmodified_bytes, refused)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET planned_bytes = excluded.planned_bytes,"
            " unmodified_bytes = excluded.unmodified_bytes, refused = NULL"
            " WHERE refused IS NOT NULL AND excluded.refused IS NULL",
            (*row, options, *sizes, planned.refused),
        )

    # -- tasks ------------------------------------------------------------------------------------------------------

    @property
    def cells(self) -> int:
        """How many cells of settings are finished, failed ones too."""
        return sum(self.cells_by_setting().values())

    def cells_by_setting(self, *, failed: bool = True) -> dict[str, int]:
        """{key of a setting: how many of its cells are finished}, with or without those that failed or of which a metric did."""
        rows = self.rows(
            "SELECT s.key, COUNT(*) FROM cell c JOIN setting s ON s.id = c.setting WHERE s.key != ?"
            f" AND (? OR NOT {_FAILED}) GROUP BY s.key",
            (UNMODIFIED, failed),
        )
        return {str(key): int(number) for key, number in rows}

    def forget_failed(self) -> int:
        """Deletes the cells that failed or of which a metric did, so that their tasks run again; how many of settings there were."""
        before = self.cells
        with database.named(self.folder), database.transaction(self.db):
            failed = self.db.execute(f"SELECT c.id FROM cell c WHERE {_FAILED}").fetchall()
            self.db.executemany("DELETE FROM figure WHERE cell = ?", failed)
            self.db.executemany("DELETE FROM cell WHERE id = ?", failed)
        return before - self.cells

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
            return claims.claim(self.db, self.setting(key), batch)

    @property
    def others(self) -> list[str]:
        """Other processes that work on this study now."""
        with database.named(self.folder):
            return claims.others(self.db)

    def finish(self, key: str, model: str, batch: int, cells: Sequence[Cell]) -> None:
        """Writes a finished task, in one transaction; pictures are on the disk before it."""
        files = [None if cell.picture is None else keep_picture(self.folder, cell.picture) for cell in cells]
        with database.named(self.folder), database.transaction(self.db):
            setting = self.setting(key)
            for cell, file in zip(cells, files, strict=True):
                self._write_cell(setting, self.image(model, cell.prompt, cell.seed), cell, file)
            claims.release(self.db, setting, batch)

    def image(self, model: str, prompt: str, seed: int) -> int:
        """The number of an image, which is written down if it is new."""
        named = (model, prompt, seed)
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

    def scale_rows(self, setting: int) -> list[tuple[Any, ...]]:
        """(metric, scale, mean over images, images) of a compact copy; empty where the store has every image's figures."""
        if not self.rows("SELECT 1 FROM sqlite_master WHERE name = 'scale_mean'"):
            return []
        what = "metric, scale, value, images FROM scale_mean"
        return self.rows(f"SELECT {what} WHERE setting = ? ORDER BY metric, scale", (setting,))

    def set_figure(self, key: str, metric: str, value: float, images: int) -> None:
        """Writes the figure of all images of a setting; a figure of fewer images is replaced."""
        stored = Figure(metric=metric, scale=WHOLE, value=value).stored
        with database.named(self.folder), database.transaction(self.db):
            self.db.execute(
                "REPLACE INTO set_figure VALUES (?, ?, ?, ?, ?)", (self.setting(key), metric, *stored, images)
            )

    # -- inside -----------------------------------------------------------------------------------------------------

    def begin(self, question: Mapping[str, Any], environment: Mapping[str, Any], command: str) -> None:
        """Makes the tables of a new study, within a transaction of the caller."""
        for statement in database.SCHEMA.split(";"):
            self.db.execute(statement)
        self.db.execute("INSERT INTO study VALUES (?, '', '', '', '', ?)", (database.VERSION, _now()))
        growth.ask(self, question, environment, command)
        self.db.execute(
            "INSERT INTO setting (key, model, label, policy, budget, codec, options) VALUES (?, '', ?, ?, '', '', '{}')",
            (UNMODIFIED, UNMODIFIED, UNMODIFIED),
        )

    def _record(self, column: str) -> dict[str, Any]:
        (row,) = self.rows(f"SELECT {column} FROM study")
        try:
            return dict(json.loads(row[0]))
        except (TypeError, ValueError) as error:
            raise database.StudyError(
                f"study file {self.folder / database.FILE} is damaged: its {column} cannot be read"
            ) from error

    def setting(self, key: str) -> int:
        """The number of a setting."""
        return int(self.db.execute("SELECT id FROM setting WHERE key = ?", (key,)).fetchone()[0])


def make_folder(folder: Path) -> None:
    """Makes the folder of a study and of its images; raises InputError if it cannot be written."""
    try:
        (folder / IMAGES).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"study folder {folder} cannot be written: {error.strerror}") from error


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
