"""Records which process works on which task, so that several processes can share one study."""

from __future__ import annotations

import os
import socket
import sqlite3
import time

LEASE = 1800.0
"""Seconds after which a task that another machine's process began counts as lost."""


def claim(db: sqlite3.Connection, setting: int, batch: int) -> bool:
    """Whether this process may work on a task now: no other process does, or the one that did has ended."""
    host, pid = socket.gethostname(), os.getpid()
    row = db.execute("SELECT host, pid, at FROM claim WHERE setting = ? AND batch = ?", (setting, batch)).fetchone()
    if row is not None and row[:2] != (host, pid) and _alive(*row):
        return False
    db.execute("REPLACE INTO claim VALUES (?, ?, ?, ?, ?)", (setting, batch, host, pid, time.time()))
    return True


def release(db: sqlite3.Connection, setting: int, batch: int) -> None:
    """Deletes the claim on a finished task."""
    db.execute("DELETE FROM claim WHERE setting = ? AND batch = ?", (setting, batch))


def others(db: sqlite3.Connection) -> list[str]:
    """Every other process that works on the study now, as ``host:pid``."""
    mine = (socket.gethostname(), os.getpid())
    rows = db.execute("SELECT host, pid, MAX(at) FROM claim GROUP BY host, pid ORDER BY host, pid").fetchall()
    return [f"{host}:{pid}" for host, pid, at in rows if (host, pid) != mine and _alive(host, pid, at)]


def _alive(host: str, pid: int, at: float) -> bool:
    """Whether the process of a claim can still finish its task."""
    if host != socket.gethostname():
        return time.time() - at < LEASE
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
