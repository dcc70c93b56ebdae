"""Describes what a failing check found, and decides whether two checks fail for the same reason."""

from __future__ import annotations

import sysconfig
import traceback
from pathlib import Path

import scalekv_core


def in_words(error: BaseException) -> str:
    """What went wrong, in one line: a check's own sentence, or what the strategy raised."""
    text = str(error).strip().split("\nassert ")[0].splitlines()
    first = text[0] if text else "no reason given"
    return (
        first.removeprefix("AssertionError: ")
        if isinstance(error, AssertionError)
        else (f"raised {type(error).__name__}: {first}")
    )


def is_foreign_file(name: str) -> bool:
    """Whether a file of Python code is a user's: neither Python's, nor a library's, nor the core's."""
    core, python = str(Path(scalekv_core.__file__).parent), sysconfig.get_path("stdlib")
    return not name.startswith((core, python, "<")) and "site-packages" not in name


def fault_of(error: BaseException) -> str:
    """Identifies the fault: the line of the user's code that raised, or the check's sentence."""
    if isinstance(error, AssertionError):
        return in_words(error) if error.__cause__ is None else fault_of(error.__cause__)
    frames = list(traceback.extract_tb(error.__traceback__))
    own = [one for one in frames if is_foreign_file(one.filename)]
    if not own and not frames:
        return in_words(error)
    where = (own or frames)[-1]
    return f"{type(error).__name__} {where.filename}:{where.lineno}"
