"""The queue of requests: one at a time, in order, cancellable; after any failure the next one is served."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from scalekv_core import InputError
from scalekv_core.app import turns as module
from scalekv_core.app.turns import FAILED, Failed, Turn, Turns, Waiting


class Work:
    """Calls a request, which is a function, and records the thread that called it."""

    def __init__(self) -> None:
        self.threads: list[str] = []

    def __call__(self, turn: Turn) -> None:
        self.threads.append(threading.current_thread().name)
        turn.request(turn)


@pytest.fixture
def work() -> Work:
    return Work()


@pytest.fixture
def turns(work: Work) -> Iterator[Turns]:
    made = Turns(work, describe=lambda error: "no memory" if isinstance(error, MemoryError) else None)
    yield made
    made.close()


def telling(*events: Any) -> Callable[[Turn], None]:
    def work(turn: Turn) -> None:
        for event in events:
            turn.tell(event)

    return work


def raising(error: Exception) -> Callable[[Turn], None]:
    def work(turn: Turn) -> None:
        raise error

    return work


def test_events_come_in_order(turns: Turns, work: Work) -> None:
    """Events arrive until the work is done, which one thread does."""
    assert [1, 2, 3] == list(turns.run(telling(1, 2, 3), "a"))
    assert [4] == list(turns.run(telling(4), "b"))
    assert 1 == len(set(work.threads))


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (InputError("budget 'x' is not understood"), "budget 'x' is not understood"),
        (MemoryError(), "no memory"),
        (RuntimeError("/home/somebody/secret.py"), FAILED),
    ],
)
def test_an_error_is_one_line_and_the_next_request_is_served(
    turns: Turns, error: Exception, line: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A user's mistake is shown in its own words; a bug is shown without details, and printed on the terminal."""
    assert [Failed(line)] == list(turns.run(raising(error), "a"))
    assert [1] == list(turns.run(telling(1), "a"))
    assert ("secret" in caplog.text) == (line == FAILED)


def test_who_waits_is_told_how_many_are_ahead(turns: Turns) -> None:
    """A waiting request is told how many are ahead, and is served in order."""
    go = threading.Event()
    first = turns.run(lambda turn: (turn.tell("begun"), go.wait(), turn.tell("done")), "a")
    assert "begun" == next(first)
    second = turns.run(telling("mine"), "b")
    assert Waiting(1) == next(second)

    go.set()

    assert ["done"] == list(first)
    assert ["mine"] == list(second)


def test_cancelling_ends_the_work_at_its_next_event(turns: Turns) -> None:
    """The rest of the work is not done, and the next request is served."""
    go, reached = threading.Event(), []
    events = turns.run(lambda turn: (turn.tell(1), go.wait(), turn.tell(2), reached.append(3)), "a")
    assert 1 == next(events)

    turns.cancel("a")
    go.set()

    assert [Failed("cancelled; the model is free")] == list(events)
    assert [] == reached
    assert [1] == list(turns.run(telling(1), "b"))


def test_who_waits_can_cancel_without_waiting(turns: Turns) -> None:
    """Cancelling while waiting does not disturb the request ahead."""
    go = threading.Event()
    first = turns.run(lambda turn: (turn.tell(1), go.wait(), turn.tell(2)), "a")
    next(first)
    second = turns.run(telling("never"), "b")
    next(second)

    turns.cancel("b")

    assert [Failed("cancelled; nothing was generated")] == list(second)
    go.set()
    assert [2] == list(first)


def test_leaving_cancels(turns: Turns) -> None:
    """Closing the page cancels its image."""
    go, reached = threading.Event(), []
    events = turns.run(lambda turn: (turn.tell(1), go.wait(), turn.tell(2), reached.append(3)), "a")
    next(events)

    events.close()  # type: ignore[attr-defined]  # a generator
    go.set()

    assert 1 == list(turns.run(telling(1), "b"))[-1]
    assert [] == reached


def test_a_second_request_of_a_visitor_cancels_the_first(turns: Turns) -> None:
    """A visitor who reloads and generates again does not wait for an image that is no longer shown."""
    go = threading.Event()
    first = turns.run(lambda turn: (turn.tell(1), go.wait(), turn.tell(2)), "a")
    next(first)
    second = turns.run(telling("mine"), "a")
    assert Waiting(1) == next(second)
    go.set()

    assert ["mine"] == list(second)
    assert [Failed("cancelled; the model is free")] == list(first)


def test_a_long_line_is_refused(turns: Turns, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request beyond the longest line is refused at once instead of waiting."""
    monkeypatch.setattr(module, "LONGEST_LINE", 1)
    go = threading.Event()
    first = turns.run(lambda turn: (turn.tell(1), go.wait()), "a")
    next(first)

    assert [Failed("1 request in line already; try again later")] == list(turns.run(telling(1), "b"))
    go.set()
    assert [] == list(first)
