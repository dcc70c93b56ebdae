"""What a token selector promises. Each check can be called by hand: ``check_indices_ascend(MySelector, ViewCase(...))``."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from attrs import evolve
from torch import Tensor

from scalekv_core.contracts.strategies import ScoringSelector, TokenSelector
from scalekv_core.testing.cases import ViewCase
from scalekv_core.testing.checks import options
from scalekv_core.testing.checks.asking import ask, asks_too_few, keep_of, seen_by, view_of
from scalekv_core.testing.common import (
    NotApplicable,
    made_on_few,
    only_if,
    refused,
)
from scalekv_core.testing.real_sizes import INFINITY_1M, VAR_256, WIDE

Make = Callable[[], TokenSelector]


@made_on_few(1, real_sizes=5)
def check_fills_its_capacity(make: Make, case: ViewCase) -> None:
    """(B, H, keep) int64 indices: fewer than its capacity waste memory, more overrun it."""
    selector = make()
    view = view_of(selector, case)
    keep = keep_of(selector, case, view)
    kept = selector.select(seen_by(selector, view), keep)
    wanted = (*view.k.shape[:2], keep)
    assert isinstance(kept, Tensor), f"it returned {refused(kept)}; wanted int64 of shape {wanted}"
    assert tuple(kept.shape) == wanted, f"it returned {refused(kept)}; wanted {wanted}: its capacity is {keep}"
    assert kept.dtype == torch.int64, f"it returned {refused(kept)}; indices are int64"
    assert kept.device == view.k.device, f"it answered on {kept.device}; the keys are on {view.k.device}"


def check_indices_are_in_range(make: Make, case: ViewCase) -> None:
    """Every index names one of the view's N tokens."""
    kept = ask(make(), case)[-1]
    low, high = int(kept.min()), int(kept.max())
    assert 0 <= low <= high < case.tokens, f"its indices go from {low} to {high}; there are {case.tokens} tokens"


def check_indices_are_unique(make: Make, case: ViewCase) -> None:
    """No token is kept twice: the second one would be paid for and double its weight in attention."""
    kept = ask(make(), case)[-1].sort(dim=-1).values
    assert bool((kept.diff(dim=-1) != 0).all()), "an index occurs twice"


def check_indices_ascend(make: Make, case: ViewCase) -> None:
    """Kept tokens are in the order of the sequence, which positions and quotas rely on."""
    kept = ask(make(), case)[-1]
    assert bool((kept.diff(dim=-1) >= 0).all()), "the indices are not ascending"


def check_works_at_its_least(make: Make, case: ViewCase) -> None:
    """``least`` is at least 1, and enough: the planner refuses everything below it and nothing above."""
    selector = make()
    least = selector.least(case.maps, case.scale)
    assert isinstance(least, int), f"least returned {type(least).__name__}"
    assert least >= 1, f"least returned {least}; selectors are never called with capacity 0"
    check_fills_its_capacity(make, evolve(case, keep=least))


def check_works_at_a_tenth(make: Make) -> None:
    """At a tenth of the history of a published model, the budget that people give, it has enough to work with."""
    for schedule in (VAR_256, INFINITY_1M, WIDE):
        selector, tenth = make(), schedule.last_history // 10
        for scale in range(len(schedule) - 1):
            least = selector.least(schedule, scale)
            assert least <= max(tenth, 1) or least >= schedule.seen[scale], (
                f"after scale {scale} of maps {schedule} it needs {least} tokens; 10% of the history are {tenth}"
            )


def check_follows_quotas(make: Make, case: ViewCase) -> None:
    """With a quota per source scale it keeps exactly so many of each map's cached tokens, in ascending order."""
    selector, case = make(), evolve(case, even=True)
    parts = _quotas(case)
    keep = sum(part[2] for part in parts)
    view = view_of(selector, case)
    if keep >= case.tokens or asks_too_few(selector, view, parts):
        raise NotApplicable(f"it cannot be asked for {keep} of {case.tokens}, or for so few of a map")
    given = list(parts)
    kept = selector.select_by_source(seen_by(selector, view), given)
    wanted = (case.rows, case.heads, keep)
    assert given == parts, "it changes the list of quotas that it is given"
    assert isinstance(kept, Tensor), f"it returned {refused(kept)}; wanted int64 of shape {wanted}"
    assert tuple(kept.shape) == wanted, f"it returned {refused(kept)}; wanted {wanted}"
    assert kept.dtype == torch.int64, f"it returned {refused(kept)}; indices are int64"
    for start, stop, share in parts:
        inside = ((kept >= start) & (kept < stop)).sum(dim=-1)
        assert bool((inside == share).all()), f"of tokens {start} to {stop} it keeps {inside.tolist()}; wanted {share}"
    assert bool((kept.diff(dim=-1) > 0).all()), "the indices are not ascending and unique"


def _quotas(case: ViewCase) -> list[tuple[int, int, int]]:
    """(start, stop, keep) of every source scale's cached tokens: none, some or all of them are kept."""
    rng = np.random.default_rng(case.seed)
    there = [*case.held_of_maps(), case.maps.tokens[case.scale]]
    stops = np.cumsum(there).tolist()
    parts = [(stop - n, stop, int(rng.integers(0, n + 1))) for n, stop in zip(there, stops, strict=True)]
    return parts if any(keep for _, _, keep in parts) else [*parts[:-1], (*parts[-1][:2], 1)]


def check_statistics_are_as_named(make: Make, case: ViewCase) -> None:
    """``observe`` returns each statistic that the class names: (B, H, N) float32 without nan, which the plan has paid for."""
    selector = make()
    view = view_of(selector, case)
    statistics = selector.observe(view)
    assert isinstance(statistics, Mapping), f"observe returned {refused(statistics)}; wanted a mapping of statistics"
    for name in selector.statistics:
        assert name in statistics, f"observe returned {', '.join(statistics) or 'nothing'}; it has to return {name!r}"
        x = statistics[name]
        assert isinstance(x, Tensor), f"statistic {name!r} is a {refused(x)}"
        assert x.shape == view.positions.shape, (
            f"statistic {name!r} is {refused(x)}; wanted {tuple(view.positions.shape)}"
        )
        assert x.dtype == torch.float32, f"statistic {name!r} is {refused(x)}; wanted float32"
        assert not bool(x.isnan().any()), f"statistic {name!r} holds nan"


@only_if(lambda selector: isinstance(selector, ScoringSelector), "it is no ScoringSelector")
def check_scores_are_numbers(make: Make, case: ViewCase) -> None:
    """One score for each token and never nan, which sorts anywhere."""
    for content in (case.content, "zero", "denormal", "huge"):
        _check_scores(make, evolve(case, content=content))


def _check_scores(make: Make, case: ViewCase) -> None:
    selector = make()
    view = view_of(selector, case)
    assert isinstance(selector, ScoringSelector)
    scores = selector.score(seen_by(selector, view), keep_of(selector, case, view))
    assert isinstance(scores, Tensor), f"score returned {refused(scores)}"
    assert scores.shape == view.positions.shape, (
        f"score returned {refused(scores)}; wanted {tuple(view.positions.shape)}"
    )
    assert not bool(scores.isnan().any()), (
        f"score returned nan for {case.content} tokens, although every dot product is finite"
    )


@made_on_few(3)
def check_options_work(make: Make, case: ViewCase) -> None:
    """With every option set to other values that it accepts it still fills its capacity."""
    options.each_option(make, lambda other: check_fills_its_capacity(other, case))
