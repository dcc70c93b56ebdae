"""Promises that everything which looks at a view makes: rows and heads apart, no memory, no chance, nothing written.

Each function takes ``ask``, which makes a new strategy and returns the function from a view to its answer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from attrs import evolve
from torch import Tensor

from scalekv_core.contracts.view import CacheView
from scalekv_core.shapes.schedule import ScaleSchedule
from scalekv_core.testing.cases import ViewCase
from scalekv_core.testing.common import NotApplicable, all_same, check_randomness, same_bits

Answer = Callable[[CacheView], list[Tensor]]
Ask = Callable[[], Answer]
TENSORS = ("q", "k", "v", "positions", "counts")


def mapped(view: CacheView, change: Callable[[Tensor], Tensor], **others: Any) -> CacheView:
    """The view with every tensor changed."""
    tensors = {name: getattr(view, name) for name in TENSORS}
    changed: dict[str, Any] = {name: None if x is None else change(x) for name, x in tensors.items()}
    statistics = {name: change(x) for name, x in view.statistics.items()}
    return evolve(view, **changed, statistics=statistics, **others)


def rows_permute(ask: Ask, view: CacheView) -> None:
    """The answer for rows in another order is the answer in that order."""
    order = torch.arange(view.k.shape[0]).flip(0)
    expected = [x[order] for x in ask()(view)]
    actual = ask()(mapped(view, lambda x: x[order]))
    assert all_same(expected, actual), "with the rows of the batch in reverse order, a row gets another answer"


def rows_alone(ask: Ask, view: CacheView) -> None:
    """A row alone is answered as in company."""
    together = ask()(view)
    for row in range(view.k.shape[0]):
        alone = ask()(mapped(view, lambda x, row=row: x[row : row + 1]))  # type: ignore[misc]
        assert all_same([x[row : row + 1] for x in together], alone), (
            f"row {row} of {view.k.shape[0]} gets another answer when it is alone in the batch"
        )


def heads_alone(ask: Ask, view: CacheView) -> None:
    """A head alone is answered as in company."""
    together = ask()(view)
    for head in range(view.k.shape[1]):
        part = mapped(view, lambda x, head=head: x[:, head : head + 1], heads=view.heads[head : head + 1])  # type: ignore[misc]
        assert all_same([x[:, head : head + 1] for x in together], ask()(part)), (
            f"head {head} of {view.k.shape[1]} gets another answer when it is alone in its group"
        )


def repeats(ask: Ask, view: CacheView) -> None:
    """Asked twice, and asked of an equal strategy, the answer is the same."""
    answer = ask()
    first = answer(view)
    assert all_same(first, answer(view)), "the second call with the same view gives another answer"
    assert all_same(first, ask()(view)), "an equal strategy gives another answer to the same view"


def remembers_nothing(ask: Ask, case: ViewCase, statistics: tuple[str, ...]) -> None:
    """The answer is the same after other images, batches and schedules."""
    view, answer = case.view(statistics), ask()
    first = answer(view)
    backwards = ScaleSchedule(case.maps.maps[::-1])
    others = [evolve(case, rows=case.rows + 1, seed=case.seed + 1), evolve(case, maps=backwards, scale=0, held=0)]
    for other in others:
        with contextlib.suppress(NotApplicable):
            if other.tokens > case.keep:
                answer(other.view(statistics))
    assert all_same(first, answer(view)), "after another image, batch or schedule the same view gets another answer"


def ignores_randomness(ask: Ask, view: CacheView) -> None:
    """Global generators are neither read nor moved."""
    check_randomness(lambda: ask()(view))


def leaves_its_input(ask: Ask, case: ViewCase, statistics: tuple[str, ...]) -> None:
    """No tensor of the view is written to."""
    view, untouched = case.view(statistics), case.view(statistics)
    ask()(view)
    for name in TENSORS:
        mine, theirs = getattr(untouched, name), getattr(view, name)
        assert mine is None or same_bits(mine, theirs), f"it writes to {name} of the view"
    for name in statistics:
        assert same_bits(untouched.statistics[name], view.statistics[name]), f"it writes to statistic {name!r}"
    for queries, mass in view.masses:
        assert same_bits(untouched.attention_mass(queries), mass), (
            "it writes to what attention_mass gave, which others get too"
        )


def stays_on_the_device(ask: Ask, view: CacheView) -> None:
    """It runs on tensors that have no values, and answers where they are."""
    nowhere = mapped(view, lambda x: x.to("meta"))
    try:
        answers = ask()(nowhere)
    except NotApplicable:
        raise
    except Exception as error:
        raise AssertionError(
            "on tensors without values (device meta) it fails: it asks what a tensor holds, which makes the host wait, "
            f"or makes tensors on another device ({type(error).__name__}: {error})"
        ) from error
    for answer in answers:
        assert answer.device.type == "meta", f"its answer to tensors on device meta is on {answer.device}"
