"""Interrupting a call between any two of its steps, as Ctrl-C may."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import scalekv_adapters

ROOM = str(Path(scalekv_adapters.__file__).parent)


def steps_of(call: Callable[[], Any]) -> int:
    """How many lines of the adapters a call runs."""
    return _traced(call, None)


def interrupted(call: Callable[[], Any], step: int) -> None:
    """Runs a call and raises KeyboardInterrupt in the adapters before this line, counted from 0."""
    _traced(call, step)


def _traced(call: Callable[[], Any], stop: int | None) -> int:
    steps = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal steps
        if not frame.f_code.co_filename.startswith(ROOM):
            return None
        if event == "line":
            steps += 1
            if stop is not None and steps == stop + 1:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return steps
