"""What a token selector promises. Each check can be called by hand: ``check_rows_permute(MySelector, ViewCase(...))``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch
from attrs import evolve
from torch import Tensor

from scalekv_core.contracts.strategies import ScoringSelector, TokenSelector
from scalekv_core.contracts.view import CacheView
from scalekv_core.testing.cases import ViewCase
from scalekv_core.testing.checks import views
from scalekv_core.testing.common import NotApplicable, NotMade, check_value, only_if, refused

Make = Callable[[], TokenSelector]


def keep_of(selector: TokenSelector, case: ViewCase, view: CacheView) -> int:
    """How many tokens it is asked to keep: what the case says, but not less than it can work with."""
    keep = max(case.keep, selector.least(view.schedule, view.scale))
    if keep >= view.tokens:
        raise NotApplicable(f"it keeps at least {keep}; there are {view.tokens}")
    return keep


def observed(selector: TokenSelector, view: CacheView) -> CacheView:
    """The view as ``select`` sees it: with the statistics brought up to date."""
    if not selector.statistics:
        return view
    statistics = selector.observe(view)
    if not isinstance(statistics, Mapping) or not set(selector.statistics) <= set(statistics):
        raise NotMade("see statistics_are_as_named")
    return evolve(view, statistics={name: statistics[name] for name in selector.statistics})


def answer(selector: TokenSelector, case: ViewCase, view: CacheView) -> list[Tensor]:
    """Statistics and indices; NotApplicable if the indices are of another form, which one promise is about."""
    seen, keep = observed(selector, view), keep_of(selector, case, view)
    kept = selector.select(seen, keep)
    if not isinstance(kept, Tensor) or kept.shape != (*view.k.shape[:2], keep):
        raise NotMade("see fills_its_capacity")
    return [*(seen.statistics[name] for name in selector.statistics), kept]


def asking(make: Make, case: ViewCase) -> views.Ask:
    """A new selector each time, and its answer to a view."""
    return lambda: partial(answer, make(), case)


def view_of(make: Make, case: ViewCase) -> CacheView:
    return case.view(make().statistics)


def check_is_a_value(make: Make) -> None:
    """A frozen attrs class without tensors: one selector can serve many models at once."""
    check_value(make)


def check_fills_its_capacity(make: Make, case: ViewCase) -> None:
    """(B, H, keep) int64 indices, as many as may stay: fewer waste memory, more overrun it."""
    selector = make()
    view = view_of(make, case)
    keep = keep_of(selector, case, view)
    kept = selector.select(observed(selector, view), keep)
    wanted = (*view.k.shape[:2], keep)
    assert isinstance(kept, Tensor), f"it returned {refused(kept)}; wanted int64 of shape {wanted}"
    assert tuple(kept.shape) == wanted, f"it returned {refused(kept)}; wanted {wanted}: its capacity is {keep}"
    assert kept.dtype == torch.int64, f"it returned {refused(kept)}; indices are int64"
    assert kept.device == view.k.device, f"it answered on {kept.device}; the keys are on {view.k.device}"


def check_indices_are_in_range(make: Make, case: ViewCase) -> None:
    """Every index names one of the view's N tokens."""
    kept = answer(make(), case, view_of(make, case))[-1]
    low, high = int(kept.min()), int(kept.max())
    assert 0 <= low <= high < case.tokens, f"its indices go from {low} to {high}; there are {case.tokens} tokens"


def check_indices_are_unique(make: Make, case: ViewCase) -> None:
    """No token is kept twice: the second one would be paid for and double its weight in attention."""
    kept = answer(make(), case, view_of(make, case))[-1].sort(dim=-1).values
    assert bool((kept.diff(dim=-1) != 0).all()), "an index occurs twice"


def check_indices_ascend(make: Make, case: ViewCase) -> None:
    """Tokens stay in the order of the sequence, which positions and quotas rely on."""
    kept = answer(make(), case, view_of(make, case))[-1]
    assert bool((kept.diff(dim=-1) >= 0).all()), "the indices are not ascending"


def check_works_at_its_least(make: Make, case: ViewCase) -> None:
    """``least`` is at least 1, and enough: the planner refuses everything below it and nothing above."""
    selector = make()
    least = selector.least(case.maps, case.scale)
    assert isinstance(least, int), f"least returned {type(least).__name__}"
    assert least >= 1, f"least returned {least}; a capacity of 0 is nobody's to fill"
    check_fills_its_capacity(make, evolve(case, keep=least))


def check_follows_quotas(make: Make, case: ViewCase) -> None:
    """With a quota per source scale exactly so many of each map stay, in ascending order."""
    selector, case = make(), evolve(case, held=case.maps.history[case.scale])
    parts = _quotas(case)
    keep = sum(part[2] for part in parts)
    if not selector.least(case.maps, case.scale) <= keep < case.tokens:
        raise NotApplicable(f"it cannot be asked for {keep} of {case.tokens}")
    kept = selector.select_by_source(observed(selector, view_of(make, case)), parts)
    wanted = (case.rows, case.heads, keep)
    assert isinstance(kept, Tensor), f"it returned {refused(kept)}; wanted int64 of shape {wanted}"
    assert tuple(kept.shape) == wanted, f"it returned {refused(kept)}; wanted {wanted}"
    for start, stop, share in parts:
        inside = ((kept >= start) & (kept < stop)).sum(dim=-1)
        assert bool((inside == share).all()), f"of tokens {start} to {stop} it keeps {inside.tolist()}; wanted {share}"
    assert bool((kept.diff(dim=-1) > 0).all()), "the indices are not ascending and unique"


def _quotas(case: ViewCase) -> list[tuple[int, int, int]]:
    """(start, stop, keep) of every source scale, none, some or all of it."""
    rng = np.random.default_rng(case.seed)
    starts, stops = case.maps.history[: case.scale + 1], case.maps.seen[: case.scale + 1]
    parts = [(a, b, int(rng.integers(0, b - a + 1))) for a, b in zip(starts, stops, strict=True)]
    return parts if any(keep for _, _, keep in parts) else [*parts[:-1], (*parts[-1][:2], 1)]


def check_statistics_are_as_named(make: Make, case: ViewCase) -> None:
    """``observe`` returns each statistic that the class names: (B, H, N) float32 without nan, which the plan has paid for."""
    selector, view = make(), view_of(make, case)
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
    selector, view = make(), view_of(make, case)
    assert isinstance(selector, ScoringSelector)
    scores = selector.score(observed(selector, view), keep_of(selector, case, view))
    assert isinstance(scores, Tensor), f"score returned {refused(scores)}"
    assert scores.shape == view.positions.shape, (
        f"score returned {refused(scores)}; wanted {tuple(view.positions.shape)}"
    )
    assert not bool(scores.isnan().any()), (
        f"score returned nan for {case.content} tokens, although every dot product is finite"
    )


def check_rows_permute(make: Make, case: ViewCase) -> None:
    """Rows in another order get the answers in that order: an image does not depend on its place in the batch."""
    case = case.with_several(rows=3)
    views.rows_permute(asking(make, case), view_of(make, case))


def check_rows_are_apart(make: Make, case: ViewCase) -> None:
    """A row alone is answered as in company: an image does not depend on the images beside it."""
    case = case.with_several(rows=2)
    views.rows_alone(asking(make, case), view_of(make, case))


def check_heads_are_apart(make: Make, case: ViewCase) -> None:
    """A head alone is answered as in company: which heads are stored together is the cache's business."""
    case = case.with_several(heads=2)
    views.heads_alone(asking(make, case), view_of(make, case))


def check_repeats_itself(make: Make, case: ViewCase) -> None:
    """The same view gets the same answer, from the same and from an equal selector."""
    views.repeats(asking(make, case), view_of(make, case))


def check_remembers_nothing(make: Make, case: ViewCase) -> None:
    """No state survives: other images, batches and schedules in between change nothing."""
    views.remembers_nothing(asking(make, case), case, make().statistics)


def check_ignores_global_randomness(make: Make, case: ViewCase) -> None:
    """Global generators are neither read nor moved: seeds belong to the user's sampling."""
    views.ignores_randomness(asking(make, case), view_of(make, case))


def check_leaves_its_input_alone(make: Make, case: ViewCase) -> None:
    """Keys, values and positions are the cache's; nothing of a view is written to."""
    views.leaves_its_input(asking(make, case), case, make().statistics)


def check_stays_on_the_device(make: Make, case: ViewCase) -> None:
    """It never asks what a tensor holds and makes no tensor elsewhere, so that the host need not wait for the device."""
    views.stays_on_the_device(asking(make, case), view_of(make, case))


def check_claims_are_known(make: Make) -> None:
    """Whatever it claims beyond the contract is a promise that this kit can check."""
    from scalekv_core.testing.checks import claims

    unknown = set(make().claims) - set(claims.CLAIMS)
    assert not unknown, f"it claims {', '.join(sorted(unknown))}; what can be claimed is {', '.join(claims.CLAIMS)}"
