"""The kit catches what is wrong on purpose, and names the promise that is broken."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from scalekv_core.testing.kinds import promise
from scalekv_core.testing.running import try_promise
from scalekv_core.testing.worker import Worker
from tests.wrong_strategies.table import WRONG, Wrong, subject_of


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    """The thread that wrong strategies are run in."""
    made = Worker()
    yield made
    made.close()


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.name)
def test_a_wrong_strategy_is_caught_by_the_promise_that_it_breaks(wrong: Wrong, worker: Worker) -> None:
    """Within the few examples of the quick profile, with a reason and a case to replay."""
    subject = subject_of(wrong)
    outcome = try_promise(
        promise(subject.kind, wrong.promise), subject, timeout=1.0 if wrong.name == "Endless" else 60.0, worker=worker
    )

    assert outcome.state in ("broken", "hangs"), f"{wrong.name} ({wrong.fault}) is not caught by {wrong.promise}"
    assert outcome.reason
    assert wrong.promise in outcome.replay
