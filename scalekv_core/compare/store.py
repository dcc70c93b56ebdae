"""Where a study is kept: one SQLite file, and images beside it by the hash of their content.

A task (one setting, one batch of images) is written in one transaction when it is finished, so that whatever ends the
process ends it between two tasks. Rows have natural keys: a task that two processes finish is stored once. Figures are
rows of their own, so that SQL, datasette and pandas read them without knowing the metrics.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import os
import socket
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import field, frozen
from PIL import Image

from scalekv_core.compare.question import Question, Setting, differences
from scalekv_core.errors import InputError, ScaleKVError

FILE = "study.sqlite"
IMAGES = "images"
VERSION = 1
UNMODIFIED = "unmodified"
"""Key of the setting that stands for the model without scalekv."""
LEASE = 1800.0
"""Seconds after which a task that a process on another machine began is taken for lost."""

_SCHEMA = """
CREATE TABLE study (version INTEGER NOT NULL, fingerprint TEXT NOT NULL, question TEXT NOT NULL, environment TEXT NOT NULL,
    command TEXT, started TEXT NOT NULL);
CREATE TABLE setting (id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, model TEXT NOT NULL, label TEXT NOT NULL,
    policy TEXT NOT NULL, budget TEXT NOT NULL, codec TEXT NOT NULL, options TEXT NOT NULL, planned_bytes INTEGER,
    unmodified_bytes INTEGER, refused TEXT);
CREATE TABLE image (id INTEGER PRIMARY KEY, model TEXT NOT NULL, prompt TEXT NOT NULL, seed INTEGER NOT NULL,
    UNIQUE (model, prompt, seed));
CREATE TABLE cell (id INTEGER PRIMARY KEY, setting INTEGER NOT NULL REFERENCES setting, image INTEGER NOT NULL REFERENCES image,
    file TEXT, seconds REAL, unmodified_seconds REAL, resident_bytes INTEGER, peak_bytes INTEGER, selection_share REAL,
    failed TEXT, worker TEXT NOT NULL, finished TEXT NOT NULL, UNIQUE (setting, image));
CREATE TABLE figure (cell INTEGER NOT NULL REFERENCES cell, metric TEXT NOT NULL, scale INTEGER NOT NULL, value REAL, note TEXT,
    PRIMARY KEY (cell, metric, scale)) WITHOUT ROWID;
CREATE TABLE set_figure (setting INTEGER NOT NULL REFERENCES setting, metric TEXT NOT NULL, value REAL, note TEXT,
    images INTEGER NOT NULL, PRIMARY KEY (setting, metric)) WITHOUT ROWID;
CREATE TABLE claim (setting INTEGER NOT NULL, batch INTEGER NOT NULL, host TEXT NOT NULL, pid INTEGER NOT NULL, at REAL NOT NULL,
    PRIMARY KEY (setting, batch)) WITHOUT ROWID;
CREATE VIEW result AS SELECT s.model, s.policy, s.budget, s.codec, s.options, i.prompt, i.seed, f.metric, f.value, f.note,
    c.seconds, c.resident_bytes, c.failed FROM cell c JOIN setting s ON s.id = c.setting JOIN image i ON i.id = c.image
    LEFT JOIN figure f ON f.cell = c.id AND f.scale = -1 WHERE s.key != 'unmodified';
"""
WHOLE = -1
"""The scale of a figure of the whole image."""


@frozen(kw_only=True)
class Figure:
    """One number of one image.

    Attributes:
        metric: its name.
        scale: which scale it is of, or :data:`WHOLE`.
        value: infinity and not-a-number are kept as such.
        note: why it is not a number, where that is known.
    """

    metric: str
    scale: int
    value: float
    note: str | None = None

    @property
    def stored(self) -> tuple[float | None, str | None]:
        """(value, note): SQLite has no not-a-number, so that null stands for it and the note says why."""
        return (None, self.note or "not a number") if math.isnan(self.value) else (self.value, None)


@frozen(eq=False, kw_only=True)
class Cell:
    """What one setting made of one image.

    Attributes:
        prompt, seed: which image.
        picture: the image as PNG; None if it failed.
        figures: of every metric, whole and by scale.
        seconds, unmodified_seconds: to generate it, its share of the batch.
        resident_bytes, peak_bytes: of the batch's cache.
        selection_share: of the time in the cache, what choosing tokens took.
        failed: why there are no figures; None if there are.
    """

    prompt: str
    seed: int
    picture: bytes | None = None
    figures: Sequence[Figure] = ()
    seconds: float | None = None
    unmodified_seconds: float | None = None
    resident_bytes: int | None = None
    peak_bytes: int | None = None
    selection_share: float | None = None
    failed: str | None = None


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
        """The study of this question in a folder: a new one, or the one that is there, to go on with it.

        Raises:
            InputError: the folder has a study of another question or environment, or cannot be written.
        """
        try:
            (folder / IMAGES).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"study folder {folder} cannot be written: {error.strerror}") from error
        with _naming(folder):
            store = cls(folder, _connect(folder / FILE))
            with store._writing():
                if not store._has("study"):
                    store._begin(question, environment, command)
            store._check_same(question, environment)
        return store

    @classmethod
    def open(cls, folder: Path) -> Store:
        """The study in a folder, to be read.

        Raises:
            InputError: there is none, or the file is something else or damaged.
        """
        file = folder if folder.is_file() else folder / FILE
        if not file.is_file():
            raise InputError(f"there is no study in {folder}: {file} does not exist; make one with scalekv compare")
        with _naming(folder):
            store = cls(file.parent, _connect(file))
            if not store._has("study"):
                raise InputError(f"{file} is not a study of scalekv")
            version = store.db.execute("SELECT version FROM study").fetchone()[0]
            if version != VERSION:
                raise InputError(f"{file} is a study of version {version}; this scalekv reads version {VERSION}")
        return store

    # -- what was asked ---------------------------------------------------------------------------------------------

    @property
    def question(self) -> dict[str, Any]:
        """The question, as plain values."""
        return dict(json.loads(self.db.execute("SELECT question FROM study").fetchone()[0]))

    @property
    def environment(self) -> dict[str, Any]:
        """Versions, device, hashes of weights and profiles, as plain values."""
        return dict(json.loads(self.db.execute("SELECT environment FROM study").fetchone()[0]))

    @property
    def command(self) -> str:
        """The command that began it."""
        return str(self.db.execute("SELECT command FROM study").fetchone()[0] or "")

    def add_setting(
        self, setting: Setting, *, planned: int | None, unmodified: int | None, refused: str | None
    ) -> None:
        """Notes a setting with the bytes that it was planned to hold, or why it cannot be measured."""
        row = (setting.key, setting.model, setting.label, setting.policy, setting.budget, setting.codec)
        options = json.dumps(dict(setting.options), sort_keys=True)
        with self._writing():
            self.db.execute(
                "INSERT INTO setting (key, model, label, policy, budget, codec, options, planned_bytes, unmodified_bytes, refused)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO NOTHING",
                (*row, options, planned, unmodified, refused),
            )

    # -- tasks ------------------------------------------------------------------------------------------------------

    def finished(self, key: str, images: Sequence[tuple[str, int]], model: str) -> bool:
        """Whether a setting has a cell for each of these images."""
        marks = ", ".join(["(?, ?)"] * len(images))
        found = self.db.execute(
            "SELECT COUNT(*) FROM cell c JOIN setting s ON s.id = c.setting JOIN image i ON i.id = c.image"
            f" WHERE s.key = ? AND i.model = ? AND (i.prompt, i.seed) IN (VALUES {marks})",
            (key, model, *(value for image in images for value in image)),
        ).fetchone()[0]
        return bool(found == len(images))

    def claim(self, key: str, batch: int) -> bool:
        """Whether this process may work at a task now: no other process does, or the one that did has ended."""
        host, pid = socket.gethostname(), os.getpid()
        with self._writing():
            setting = self._id("setting", "key", key)
            row = self.db.execute(
                "SELECT host, pid, at FROM claim WHERE setting = ? AND batch = ?", (setting, batch)
            ).fetchone()
            if row is not None and row[:2] != (host, pid) and _alive(*row):
                return False
            self.db.execute("REPLACE INTO claim VALUES (?, ?, ?, ?, ?)", (setting, batch, host, pid, time.time()))
        return True

    def finish(self, key: str, model: str, batch: int, cells: Sequence[Cell]) -> None:
        """Writes a finished task, in one transaction; pictures are on the disk before it."""
        files = [None if cell.picture is None else self._keep_picture(cell.picture) for cell in cells]
        worker, now = f"{socket.gethostname()}:{os.getpid()}", _now()
        with _naming(self.folder), self._writing():
            setting = self._id("setting", "key", key)
            for cell, file in zip(cells, files, strict=True):
                self._write_cell(setting, model, cell, file, worker, now)
            self.db.execute("DELETE FROM claim WHERE setting = ? AND batch = ?", (setting, batch))

    def _write_cell(self, setting: int, model: str, cell: Cell, file: str | None, worker: str, now: str) -> None:
        self.db.execute(
            "INSERT INTO image (model, prompt, seed) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
            (model, cell.prompt, cell.seed),
        )
        image = self.db.execute(
            "SELECT id FROM image WHERE model = ? AND prompt = ? AND seed = ?", (model, cell.prompt, cell.seed)
        ).fetchone()[0]
        figures = (cell.seconds, cell.unmodified_seconds, cell.resident_bytes, cell.peak_bytes, cell.selection_share)
        new = self.db.execute(
            "INSERT INTO cell (setting, image, file, seconds, unmodified_seconds, resident_bytes, peak_bytes, selection_share,"
            " failed, worker, finished) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (setting, image) DO NOTHING"
            " RETURNING id",
            (setting, image, file, *figures, cell.failed, worker, now),
        ).fetchone()
        if new is not None:
            rows = [(new[0], f.metric, f.scale, *f.stored) for f in cell.figures]
            self.db.executemany("INSERT INTO figure VALUES (?, ?, ?, ?, ?)", rows)

    def pictures(self, key: str, model: str) -> dict[tuple[str, int], str]:
        """{(prompt, seed): file} of the images of a setting."""
        rows = self.db.execute(
            "SELECT i.prompt, i.seed, c.file FROM cell c JOIN setting s ON s.id = c.setting JOIN image i ON i.id = c.image"
            " WHERE s.key = ? AND i.model = ? AND c.file IS NOT NULL",
            (key, model),
        )
        return {(prompt, seed): file for prompt, seed, file in rows}

    def set_figure(self, key: str, metric: str, value: float, images: int) -> None:
        """Writes the figure of all images of a setting; a figure of fewer images is replaced."""
        stored = Figure(metric=metric, scale=WHOLE, value=value).stored
        with _naming(self.folder), self._writing():
            setting = self._id("setting", "key", key)
            self.db.execute("REPLACE INTO set_figure VALUES (?, ?, ?, ?, ?)", (setting, metric, *stored, images))

    def _keep_picture(self, png: bytes) -> str:
        """The file of a picture, by its hash. Written aside and renamed, so that no half of one is ever there."""
        name = f"{hashlib.sha256(png).hexdigest()[:32]}.png"
        file = self.folder / IMAGES / name
        if not file.exists():
            aside = file.with_suffix(f".{os.getpid()}.part")
            try:
                aside.write_bytes(png)
                aside.replace(file)
            except OSError as error:
                with contextlib.suppress(OSError):
                    aside.unlink()
                raise StudyError(
                    f"image {file} cannot be written: {error.strerror}; what was finished before is in "
                    f"{self.folder / FILE}, and the same command goes on from there"
                ) from error
        return name

    # -- the ground ---------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """A transaction that waits for other writers first, so that two processes never fail each other's."""
        self.db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self.db.execute("ROLLBACK")
            raise
        self.db.execute("COMMIT")

    def _has(self, table: str) -> bool:
        return self.db.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchone() is not None

    def _begin(self, question: Question, environment: Mapping[str, Any], command: str) -> None:
        for statement in _SCHEMA.split(";"):
            self.db.execute(statement)
        asked = json.dumps(question.as_dict(), sort_keys=True)
        self.db.execute(
            "INSERT INTO study VALUES (?, ?, ?, ?, ?, ?)",
            (VERSION, question.fingerprint, asked, json.dumps(dict(environment), sort_keys=True), command, _now()),
        )
        self.db.execute(
            "INSERT INTO setting (key, model, label, policy, budget, codec, options) VALUES (?, '', ?, ?, '', '', '{}')",
            (UNMODIFIED, UNMODIFIED, UNMODIFIED),
        )

    def _check_same(self, question: Question, environment: Mapping[str, Any]) -> None:
        found = differences(question.as_dict(), self.question)
        found += differences(json.loads(json.dumps(dict(environment))), self.environment)
        if found:
            raise InputError(
                f"{self.folder} holds another study; choose another folder, or ask the same. It differs in {'; '.join(found)}"
            )

    def _id(self, table: str, column: str, value: str) -> int:
        return int(self.db.execute(f"SELECT id FROM {table} WHERE {column} = ?", (value,)).fetchone()[0])

    def close(self) -> None:
        """Closes the file."""
        self.db.close()


class StudyError(ScaleKVError):
    """A study cannot go on: its disk is full, or its file is damaged. What was finished is kept."""


def as_png(image: Any) -> bytes:
    """(3, H, W) in [0, 1] as a PNG."""
    pixels = image.detach().float().cpu().clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


@contextlib.contextmanager
def _naming(folder: Path) -> Iterator[None]:
    """What SQLite says of a file, with the file's name and what is kept."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        full = "full" in str(error)
        raise StudyError(
            f"study file {folder / FILE} cannot be used ({error}); "
            + (
                "free some space and run the same command: what was finished is kept"
                if full
                else "is it a study of scalekv?"
            )
        ) from error


def _connect(file: Path) -> sqlite3.Connection:
    db = sqlite3.connect(file, timeout=60, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")
    db.execute("PRAGMA foreign_keys = ON")
    return db


def _alive(host: str, pid: int, at: float) -> bool:
    """Whether who made a claim can still finish it."""
    if host != socket.gethostname():
        return time.time() - at < LEASE
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
