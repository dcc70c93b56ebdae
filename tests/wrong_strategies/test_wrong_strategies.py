"""The kit catches what is wrong on purpose, by the check that is meant for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from _pytest.mark import ParameterSet

from scalekv_core.testing.kinds import check_named, kind_of
from scalekv_core.testing.running import try_all, try_check
from scalekv_core.testing.worker import Worker
from tests.wrong_strategies.table import WRONG, Wrong, subject_of


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    """The thread that wrong strategies are run in."""
    made = Worker()
    yield made
    made.close()


EXAMPLES = {"adapter": 10, "model": 10}
"""Cases that are tried of each kind; 20 of all others."""
SLOW = ("is_quick", "another_process_agrees")
"""Checks that take seconds, or a process, each time: of selectors here, of the other kinds in the thorough suite."""


def params() -> list[ParameterSet]:
    """Every wrong strategy."""
    slow = [wrong for wrong in WRONG if wrong.check in SLOW and kind_of(wrong.make()) != "selector"]
    return [
        pytest.param(wrong, id=wrong.name, marks=[pytest.mark.thorough] if wrong in slow else []) for wrong in WRONG
    ]


@pytest.mark.parametrize("wrong", params())
def test_a_wrong_strategy_fails_its_check(wrong: Wrong, worker: Worker) -> None:
    """The check finds it in the few examples of the quick profile, with a reason and a case to replay."""
    subject = subject_of(wrong)
    for _ in range(6 if wrong.check == "another_process_agrees" else 1):  # a hash is now and then the same by chance
        outcome = try_check(
            check_named(subject.kind, wrong.check),
            subject,
            examples=EXAMPLES.get(subject.kind, 20),
            timeout=1.0 if wrong.name == "Endless" else 60.0,
            worker=worker,
            shrinking=0,
        )
        if outcome.is_wrong:
            break

    assert outcome.is_wrong, f"{wrong.name} ({wrong.fault}) is not caught by {wrong.check}"
    assert outcome.reason
    assert wrong.check in outcome.replay


def test_what_one_check_changes_does_not_hide_it_from_the_next() -> None:
    """A setting that a model changes in an early check is found by the check that is about it, and put back."""
    (wrong,) = (one for one in WRONG if one.name == "SetsThePrecision")
    before = torch.get_float32_matmul_precision()
    outcomes = {outcome.check: outcome for outcome in try_all(subject_of(wrong), examples=1)}

    assert outcomes["is_quiet"].is_wrong
    assert before == torch.get_float32_matmul_precision()
