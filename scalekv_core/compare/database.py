"""The SQLite file of a study: its tables, how it is opened, and the errors when it cannot be used."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from scalekv_core.errors import InputError, ScaleKVError

FILE = "study.sqlite"
VERSION = 1
SCHEMA = """
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
    c.seconds, c.unmodified_seconds, c.selection_share, c.resident_bytes, c.peak_bytes, c.failed FROM cell c JOIN setting s ON s.id = c.setting JOIN image i ON i.id = c.image
    LEFT JOIN figure f ON f.cell = c.id AND f.scale = -1 WHERE s.key != 'unmodified';
"""
WAIT = 60.0
"""Seconds to wait for another process that writes."""


class StudyError(ScaleKVError):
    """A study cannot go on: its disk is full, or its file is damaged. What was finished is kept."""


def writable(file: Path) -> sqlite3.Connection:
    """A connection that can write; it makes the file if there is none.

    Write-ahead logging lets others read meanwhile, and a process that is killed leaves no half of a transaction.

    Raises:
        InputError: the file is something else.
    """
    db = sqlite3.connect(file, timeout=WAIT, isolation_level=None)
    if not is_empty(db):
        check_version(db, file)  # before anything is changed in somebody else's file
    _log_ahead(db)
    db.execute("PRAGMA synchronous = NORMAL")
    db.execute("PRAGMA foreign_keys = ON")
    return db


def _log_ahead(db: sqlite3.Connection) -> None:
    """Switches to write-ahead logging; for this SQLite does not wait for other processes by itself."""
    end = time.monotonic() + WAIT
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > end:
                raise
            time.sleep(0.02)
        else:
            return


def readable(file: Path) -> sqlite3.Connection:
    """A connection to an existing file, also if the file is read-only."""
    uri = file.resolve().as_uri()
    db = sqlite3.connect(f"{uri}?mode=rw", uri=True, timeout=WAIT, isolation_level=None)
    try:
        db.execute("SELECT 1 FROM sqlite_master").fetchone()
    except sqlite3.OperationalError:
        db.close()
        db = sqlite3.connect(f"{uri}?mode=ro&immutable=1", uri=True, isolation_level=None)
    return db


def close(db: sqlite3.Connection) -> None:
    """Closes a connection; the last one of a study leaves a single file without a log beside it."""
    with contextlib.suppress(sqlite3.Error):  # others are still connected, or it cannot be written
        db.execute("PRAGMA busy_timeout = 0")
        db.execute("PRAGMA journal_mode = DELETE")
    db.close()


def is_empty(db: sqlite3.Connection) -> bool:
    """Whether nothing was written into the file yet."""
    return db.execute("SELECT 1 FROM sqlite_master").fetchone() is None


def check_version(db: sqlite3.Connection, file: Path) -> None:
    """Raises InputError if the file is no study, or one of a version that this scalekv does not read."""
    if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'study'").fetchone() is None:
        raise InputError(f"{file} is not a study of scalekv")
    row = db.execute("SELECT version FROM study").fetchone()
    if row is None or row[0] != VERSION:
        got = "none" if row is None else row[0]
        raise InputError(f"{file} is a study of version {got}; this scalekv reads version {VERSION}")


@contextlib.contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """A transaction that waits for other writers first, so that two processes never fail each other's."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:  # SQLite has rolled back already where the disk is full
            db.execute("ROLLBACK")
        raise


@contextlib.contextmanager
def named(folder: Path) -> Iterator[None]:
    """An SQLite error as one line: the file, what is kept, and what to do."""
    try:
        yield
    except sqlite3.Error as error:
        raise StudyError(f"study file {folder / FILE} cannot be used ({error}); {_advice(str(error))}") from error


def _advice(said: str) -> str:
    hints = {
        "full": "free some space and run the same command: what was finished is kept",
        "disk I/O": "free some space or mend the disk and run the same command: what was finished is kept",
        "locked": f"another process has been writing for {WAIT:.0f} seconds; run the same command again",
        "readonly": "it cannot be written here; copy the folder to a place that can be",
        "unable to open": "its folder cannot be read or written here",
    }
    return next((hint for word, hint in hints.items() if word in said), "it is damaged, or not a study of scalekv")
