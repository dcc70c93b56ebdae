"""Files that are written all together or not at all, also after Ctrl-C or on a full disk."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path

from scalekv_core.cli.interrupts import stop_if_noticed
from scalekv_core.errors import InputError, ScaleKVError

BLOCK = 4096
"""Bytes that are written on trial."""


class WritingError(ScaleKVError):
    """Results cannot be written where they should go."""


def check_directory(path: Path) -> None:
    """Refuses a directory that cannot be written to, before anything is generated; leaves nothing behind.

    Raises:
        InputError: something else is there, or it cannot be made or written to.
    """
    try:
        there = next(place for place in (path, *path.absolute().parents) if place.exists())
        if not there.is_dir():
            raise InputError(f"cannot write to the directory {path}: {there} is a file")
        if not os.access(there, os.W_OK | os.X_OK):
            raise InputError(f"cannot write to the directory {path}: no permission for {there}")
        with tempfile.TemporaryFile(dir=there) as trial:
            trial.write(bytes(BLOCK))
            trial.flush()
    except (OSError, UnicodeError) as error:
        raise InputError(f"cannot write to the directory {path}: {_reason(error)}") from error


def check_files(directory: Path, names: Collection[str]) -> None:
    """Refuses names that are taken by directories, before anything is generated.

    Raises:
        InputError: names the first of them.
    """
    for name in names:
        if (directory / name).is_dir():
            raise InputError(f"cannot write the file {directory / name}: it is a directory; choose another --out")


def check_file(file: Path, option: str) -> None:
    """Refuses a file that cannot be written, before anything is measured; leaves nothing behind.

    Args:
        file: what is to be written.
        option: where it was named, for the message.

    Raises:
        InputError: it is a directory, or its directory cannot be written to.
    """
    if file.is_dir():
        raise InputError(f"{option} needs the name of a file; {file} is a directory")
    check_directory(file.parent)


@contextlib.contextmanager
def written_together(directory: Path, *, listed_in: str | None = None) -> Iterator[Path]:
    """A scratch directory; what is in it at the end of the block goes into ``directory``, or nothing does.

    Args:
        directory: where the files go; made if it is not there.
        listed_in: a JSON file whose ``files`` lists what an earlier run wrote here; what is not written again is removed,
            so that no old picture stands beside a new record.

    Raises:
        WritingError: the disk is full, or a file is in the way; ``directory`` is as it was.
    """
    made = _make(directory)
    stage = Path(tempfile.mkdtemp(prefix=".scalekv-", dir=directory))
    done = False
    try:
        yield stage
        stop_if_noticed()
        _publish(stage, directory, stale=_listed(directory, listed_in))
        done = True
    except OSError as error:
        raise WritingError(
            f"cannot write to {directory}: {_reason(error)}; nothing was written, and what was there is unchanged"
        ) from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)
        if not done:
            for folder in made:
                with contextlib.suppress(OSError):
                    folder.rmdir()


def _make(directory: Path) -> list[Path]:
    """Makes a directory; returns those that were not there, innermost first."""
    missing = [place for place in (directory, *directory.absolute().parents) if not place.exists()]
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WritingError(f"cannot make the directory {directory}: {_reason(error)}") from error
    return missing


def _publish(stage: Path, directory: Path, stale: Collection[str]) -> None:
    """Moves every file of the stage into the directory, or none of them."""
    new = sorted(file.name for file in stage.iterdir())
    former = Path(tempfile.mkdtemp(prefix="former-", dir=stage))
    moved: list[str] = []
    try:
        for name in [*new, *(name for name in stale if name not in new)]:
            if (directory / name).is_dir():
                raise IsADirectoryError(21, "Is a directory", str(directory / name))
            with contextlib.suppress(FileNotFoundError):
                os.replace(directory / name, former / name)
            moved.append(name)
            if name in new:
                os.replace(stage / name, directory / name)
    except BaseException:
        for name in moved:
            (directory / name).unlink(missing_ok=True)
            with contextlib.suppress(FileNotFoundError):
                os.replace(former / name, directory / name)
        raise


def _listed(directory: Path, record: str | None) -> list[str]:
    """The files that an earlier record in this directory lists; none if there is no such record."""
    if record is None:
        return []
    try:
        listed = json.loads((directory / record).read_text(encoding="utf-8"))["files"]
        names = [name for name in listed if isinstance(name, str) and Path(name).name == name]
        return [name for name in names if (directory / name).is_file()]
    except (OSError, ValueError, TypeError, KeyError):
        return []


def _reason(error: OSError | UnicodeError) -> str:
    if isinstance(error, UnicodeError):
        return "its name has letters that this locale cannot hold"
    named = f" ({error.filename})" if error.filename is not None else ""
    return f"{error.strerror}{named}"
