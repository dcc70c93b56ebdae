"""Whose turn it is: one thread works for all visitors, one request after another, and any of them can be cancelled.

The model lives in that thread alone, so requests cannot mix. A visitor has one request at a time.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from attrs import define, field, frozen

from scalekv_core.errors import ScaleKVError
from scalekv_core.shapes.geometry import plural

POLL = 0.25
"""Seconds between two looks at how many requests are ahead."""
LONGEST_LINE = 32
"""Requests that wait at most."""
FAILED = "generating failed for a reason that is not yours; the terminal in which scalekv app runs shows it"


class Cancelled(ScaleKVError):
    """A request was cancelled by its visitor."""


class Busy(ScaleKVError):
    """Too many requests wait already."""


@frozen
class Waiting:
    """So many requests are ahead."""

    ahead: int


@frozen
class Failed:
    """A request ended without a result; the message is one line."""

    message: str


@define(eq=False)
class Turn:
    """One request: what it tells its visitor, and whether the visitor still needs it."""

    request: Any
    events: queue.SimpleQueue[Any] = field(factory=queue.SimpleQueue)
    stopped: threading.Event = field(factory=threading.Event)

    def tell(self, event: Any) -> None:
        """Shows an event to the visitor.

        Raises:
            Cancelled: the visitor has cancelled.
        """
        self.check()
        self.events.put(event)

    def check(self) -> None:
        """Raises Cancelled if the visitor has cancelled."""
        if self.stopped.is_set():
            raise Cancelled("cancelled; the model is free")


_END = object()


class Turns:
    """The line of requests.

    Args:
        work: does one request in the one thread, and tells its events to the turn.
        describe: one line for an error that is no ScaleKVError, such as memory that ran out; None for a bug.
    """

    def __init__(self, work: Callable[[Turn], None], *, describe: Callable[[Exception], str | None]) -> None:
        self._work = work
        self._describe = describe
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="scalekv-model")
        self._lock = threading.Lock()
        self._line: list[Turn] = []
        self._of_visitor: dict[str, Turn] = {}

    def run(self, request: Any, visitor: str) -> Iterator[Any]:
        """The events of a request, ended by its result or a Failed; a former request of the same visitor is cancelled.

        Closing the iterator cancels the request.
        """
        try:
            turn = self._join(request, visitor)
        except ScaleKVError as error:
            yield Failed(str(error))
            return
        try:
            yield from self._events(turn)
        finally:
            turn.stopped.set()
            self._leave(turn, visitor)

    def cancel(self, visitor: str) -> None:
        """Cancels the request of a visitor, if there is one; it ends at its next scale."""
        with self._lock:
            turn = self._of_visitor.get(visitor)
        if turn is not None:
            turn.stopped.set()

    def close(self) -> None:
        """Cancels everything, and ends the thread."""
        with self._lock:
            for turn in self._line:
                turn.stopped.set()
        self._worker.shutdown(wait=True, cancel_futures=True)

    def _join(self, request: Any, visitor: str) -> Turn:
        self.cancel(visitor)
        turn = Turn(request)
        with self._lock:
            if len(self._line) >= LONGEST_LINE:
                raise Busy(f"{plural(len(self._line), 'request')} in line already; try again later")
            self._line.append(turn)
            self._of_visitor[visitor] = turn
        self._worker.submit(self._do, turn)
        return turn

    def _leave(self, turn: Turn, visitor: str) -> None:
        with self._lock:
            if self._of_visitor.get(visitor) is turn:
                del self._of_visitor[visitor]

    def _do(self, turn: Turn) -> None:
        """In the one thread: whatever happens is an event, and the next request finds the model free."""
        try:
            turn.check()
            self._work(turn)
        except ScaleKVError as error:
            turn.events.put(Failed(str(error)))
        except Exception as error:
            message = self._describe(error)
            if message is None:
                logging.getLogger(__name__).exception("scalekv app: a request failed")
            turn.events.put(Failed(message or FAILED))
        finally:
            with self._lock:
                self._line.remove(turn)
            turn.events.put(_END)

    def _events(self, turn: Turn) -> Iterator[Any]:
        told = None
        while True:
            ahead = self._ahead(turn)
            if ahead and ahead != told:
                told = ahead
                yield Waiting(ahead)
            if ahead and turn.stopped.is_set():  # it need not wait for its turn to be over
                yield Failed("cancelled; nothing was generated")
                return
            try:
                event = turn.events.get(timeout=POLL)
            except queue.Empty:
                continue
            if event is _END:
                return
            yield event

    def _ahead(self, turn: Turn) -> int:
        with self._lock:
            return self._line.index(turn) if turn in self._line else 0
