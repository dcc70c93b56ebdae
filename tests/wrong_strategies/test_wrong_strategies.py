"""The kit catches what is wrong on purpose, by the check that is meant for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from scalekv_core.testing.kinds import check_named
from scalekv_core.testing.running import try_check
from scalekv_core.testing.worker import Worker
from tests.wrong_strategies.table import WRONG, Wrong, subject_of


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    """The thread that wrong strategies are run in."""
    made = Worker()
    yield made
    made.close()


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.name)
def test_a_wrong_strategy_fails_its_check(wrong: Wrong, worker: Worker) -> None:
    """Within the few examples of the quick profile, with a reason and a case to replay."""
    subject = subject_of(wrong)
    outcome = try_check(
        check_named(subject.kind, wrong.check),
        subject,
        timeout=1.0 if wrong.name == "Endless" else 60.0,
        worker=worker,
    )

    assert outcome.is_wrong, f"{wrong.name} ({wrong.fault}) is not caught by {wrong.check}"
    assert outcome.reason
    assert wrong.check in outcome.replay
