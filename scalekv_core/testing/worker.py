"""A thread for foreign code, which can be stopped or left behind if it does not return.

One thread does one thing after the other: Hypothesis sets itself up anew in every thread. Time is the thread's processor
time, so that other work on the machine fails no strategy; only code that waits (sleeps, or blocks) is judged by
the clock on the wall, and is given :data:`WAITING` times as long.
"""

from __future__ import annotations

import contextlib
import ctypes
import queue
import sys
import threading
import time
from collections.abc import Callable

import torch

POLL, GRACE = 0.05, 1.0
"""Seconds between two looks at the clock, and those that interrupted code gets to end."""
WAITING = 6
"""How many times longer code may wait than it may compute."""


class Hangs(BaseException):
    """Raised in the thread of what takes too long; no Exception, so that it is not taken for a failing case."""


class Worker:
    """Runs one function after the other, until :meth:`close`."""

    def __init__(self) -> None:
        self._threads = torch.get_num_threads()
        self._start()

    def do(
        self, act: Callable[[], None], *, limit: float, steps: Callable[[], int] = lambda: 0
    ) -> BaseException | None:
        """What the act raised, or None; Hangs if it was stopped because one of its steps took too long.

        Args:
            act: is run in the thread.
            limit: seconds of processor time that a step may take.
            steps: how many steps are done.
        """
        self._acts.put(act)
        done, computed, clock = steps(), self._processor_time(), time.monotonic()
        while True:
            try:
                return self._ends.get(timeout=POLL)
            except queue.Empty:
                if steps() != done:
                    done, computed, clock = steps(), self._processor_time(), time.monotonic()
                late = self._processor_time() - computed > limit or time.monotonic() - clock > WAITING * limit
                if late and not self._imports():
                    return self._interrupt()

    def close(self) -> None:
        """Lets the thread end."""
        self._acts.put(None)

    def _processor_time(self) -> float:
        """Processor seconds of the thread, or of the process where a thread's are not known."""
        try:
            return time.clock_gettime(time.pthread_getcpuclockid(self._thread.ident or 0))
        except (AttributeError, OSError):
            return time.process_time()

    def _imports(self) -> bool:
        """Whether the thread is in the middle of an import: a module that is half loaded breaks whatever comes later."""
        frame = sys._current_frames().get(self._thread.ident or 0)
        while frame is not None:
            if "importlib._bootstrap" in frame.f_code.co_filename:
                return True
            frame = frame.f_back
        return False

    def _start(self) -> None:
        self._acts: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._ends: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        arguments = (self._acts, self._ends, self._threads)
        self._thread = threading.Thread(target=_work, args=arguments, daemon=True, name="scalekv check")
        self._thread.start()

    def _interrupt(self) -> Hangs:
        """Interrupts Python code until it ends; code that is stuck elsewhere is left behind."""
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
    with contextlib.suppress(Hangs):  # whenever it comes: this thread is no longer needed
        while (act := acts.get()) is not None:
            try:
                act()
                ends.put(None)
            except Hangs:
                return
            except BaseException as error:  # told to the waiting thread
                ends.put(error)
