"""A study as one small file, to be shipped or handed in to a leaderboard: every figure of every image, but no images.

Figures scale by scale are kept as their means over images. It can be read where nothing can be written.
"""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from scalekv_core.compare.database import FILE
from scalekv_core.compare.store import Store
from scalekv_core.errors import InputError
from scalekv_core.models.card import ModelCard
from scalekv_core.plugins.registry import Registry

MEANS = """CREATE TABLE IF NOT EXISTS scale_mean (setting INTEGER NOT NULL REFERENCES setting, metric TEXT NOT NULL,
    scale INTEGER NOT NULL, value REAL, images INTEGER NOT NULL, PRIMARY KEY (setting, metric, scale)) WITHOUT ROWID;
"""
"""Means by scale of settings whose figures by scale are not kept."""

_COMPACT = f"""
{MEANS}
INSERT OR REPLACE INTO scale_mean SELECT c.setting, f.metric, f.scale, AVG(f.value), COUNT(f.value)
    FROM figure f JOIN cell c ON c.id = f.cell WHERE f.scale >= 0 GROUP BY c.setting, f.metric, f.scale;
DELETE FROM figure WHERE scale >= 0;
DELETE FROM claim;
UPDATE cell SET file = NULL, worker = '';
"""


def write_compact(store: Store, file: Path) -> None:
    """Writes the compact copy of a study, aside first, so that no half of one is ever there.

    Raises:
        InputError: the file cannot be written.
    """
    aside = file.with_name(f".{file.name}.part")
    try:
        with contextlib.closing(sqlite3.connect(aside)) as copy:
            store.db.backup(copy)
            copy.executescript(_COMPACT)
            copy.execute("PRAGMA journal_mode = DELETE")
            copy.execute("VACUUM")
        aside.replace(file)
    except (OSError, sqlite3.Error) as error:
        with contextlib.suppress(OSError):
            aside.unlink()
        raise InputError(f"{file} cannot be written: {error}") from error


def located(study: Path, registry: Registry) -> Path:
    """The path of a study: its folder or file; for a model's name, the study that ships with it.

    Raises:
        InputError: there is no such folder, and no model of this name ships with a study.
    """
    if study.exists():
        return study
    shipped = shipped_studies(registry)
    if str(study) in shipped:
        return shipped[str(study)]
    names = ", ".join(shipped)
    raise InputError(
        f"there is no study in {study}: {study / FILE} does not exist; make one with scalekv compare"
        + (f", or name a model that ships with one: {names}" if names else "")
    )


def shipped_studies(registry: Registry) -> dict[str, Path]:
    """{model: file} of the studies that ship with models."""
    found: dict[str, Path] = {}
    for name in registry.names("model"):
        card: ModelCard = registry.make("model", name)
        if card.study is not None:
            found[name] = card.study
    return found
