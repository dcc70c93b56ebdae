"""The images of a study: files by the hash of their content, so that equal images are kept once."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from scalekv_core.compare.database import FILE, StudyError

IMAGES = "images"


def keep_picture(folder: Path, png: bytes) -> str:
    """The file of a picture. It is written aside and renamed, so that no half of one is ever there.

    Raises:
        StudyError: it cannot be written.
    """
    name = f"{hashlib.sha256(png).hexdigest()[:32]}.png"
    _aside(folder, name, lambda aside: aside.write_bytes(png))
    return name


def copy_picture(file: Path, folder: Path) -> None:
    """Takes a picture of another study, as :func:`keep_picture`."""
    _aside(folder, file.name, lambda aside: shutil.copyfile(file, aside))


def _aside(folder: Path, name: str, write: Callable[[Path], object]) -> None:
    file = folder / IMAGES / name
    if file.exists():
        return
    aside = file.with_suffix(f".{os.getpid()}.part")
    try:
        write(aside)
        aside.replace(file)
    except OSError as error:
        with contextlib.suppress(OSError):
            aside.unlink()
        raise StudyError(
            f"image {file} cannot be written: {error.strerror}; what was finished before is in {folder / FILE}, and "
            "the same command goes on from there"
        ) from error
