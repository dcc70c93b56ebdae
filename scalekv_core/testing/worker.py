"""A thread in which foreign code is run, so that code that does not come back can be stopped or left behind.

One thread does one thing after the other: Hypothesis has to find its feet anew in every thread.
"""

from __future__ import annotations

import ctypes
import queue
import threading
from collections.abc import Callable

import torch

POLL, GRACE = 0.05, 1.0
"""Seconds between two looks at the clock, and those that interrupted code gets to end."""


class Hangs(BaseException):
    """Raised in the thread of what takes too long; no Exception, so that nobody takes it for a failing case."""


class Worker:
    """Does what it is told, one thing after the other, until :meth:`close`."""

    def __init__(self) -> None:
        self._threads = torch.get_num_threads()
        self._start()

    def do(self, act: Callable[[], None], *, overdue: Callable[[], bool]) -> BaseException | None:
        """What the act raised, or None; Hangs if it was stopped because it was ``overdue``."""
        self._acts.put(act)
        while True:
            try:
                return self._ends.get(timeout=POLL)
            except queue.Empty:
                if overdue():
                    return self._interrupt()

    def close(self) -> None:
        """Lets the thread end."""
        self._acts.put(None)

    def _start(self) -> None:
        self._acts: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._ends: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        arguments = (self._acts, self._ends, self._threads)
        self._thread = threading.Thread(target=_work, args=arguments, daemon=True, name="scalekv check")
        self._thread.start()

    def _interrupt(self) -> BaseException | None:
        """Stops Python code; a thread that is stuck elsewhere is left behind, and another one takes its place."""
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._thread.ident or 0), ctypes.py_object(Hangs))
        try:
            self._ends.get(timeout=GRACE)
        except queue.Empty:
            self._start()
        return Hangs()


def _work(
    acts: queue.SimpleQueue[Callable[[], None] | None], ends: queue.SimpleQueue[BaseException | None], threads: int
) -> None:
    torch.set_num_threads(threads)  # torch counts them per thread
    while (act := acts.get()) is not None:
        try:
            act()
            ends.put(None)
        except BaseException as error:  # told to whoever waits
            ends.put(error)
