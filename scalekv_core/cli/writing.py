"""Files that are either there as a whole or not at all, also after Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from scalekv_core.errors import InputError


def check_directory(path: Path) -> None:
    """Refuses a directory that cannot be written to; called before anything is drawn, so that a typo costs no time.

    Raises:
        InputError: something else is there, or it cannot be made or written to.
    """
    there = next(place for place in (path, *path.absolute().parents) if place.exists())
    if not there.is_dir():
        raise InputError(f"cannot write to the directory {path}: {there} is a file")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"cannot write to the directory {path}: no permission for {there}")


@contextlib.contextmanager
def written_together(directory: Path) -> Iterator[Path]:
    """A scratch directory; what is in it at the end of the block goes into ``directory``, or nothing does."""
    directory.mkdir(parents=True, exist_ok=True)
    stage = Path(tempfile.mkdtemp(prefix=".scalekv-", dir=directory))
    try:
        yield stage
        for file in sorted(stage.iterdir()):
            os.replace(file, directory / file.name)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
