"""A thread in which foreign code is run, so that code that does not come back can be stopped or left behind.

One thread does one thing after the other: Hypothesis has to find its feet anew in every thread.
"""

from __future__ import annotations

import contextlib
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

    def _interrupt(self) -> Hangs:
        """Stops Python code, asking again where nobody listened; what is stuck elsewhere is left behind."""
        for _ in range(round(GRACE / POLL)):
            identity = ctypes.c_ulong(self._thread.ident or 0)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(identity, ctypes.py_object(Hangs))
            self._thread.join(POLL)
            if not self._thread.is_alive():
                break
        self._start()
        return Hangs()


def _work(
    acts: queue.SimpleQueue[Callable[[], None] | None], ends: queue.SimpleQueue[BaseException | None], threads: int
) -> None:
    torch.set_num_threads(threads)  # torch counts them per thread
    with contextlib.suppress(Hangs):  # whenever it comes: nobody waits for this thread any more
        while (act := acts.get()) is not None:
            try:
                act()
                ends.put(None)
            except Hangs:
                return
            except BaseException as error:  # told to whoever waits
                ends.put(error)
