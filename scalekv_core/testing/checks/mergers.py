"""What a token merger promises."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from scalekv_core import ops
from scalekv_core.contracts.strategies import TokenMerger
from scalekv_core.contracts.view import CacheView
from scalekv_core.testing.cases import ViewCase
from scalekv_core.testing.checks import views
from scalekv_core.testing.common import NotMade, check_value, only_if, refused

Make = Callable[[], TokenMerger]


def kept_of(view: CacheView, case: ViewCase) -> Tensor:
    """(B, H, keep) tokens that stay: in every row and head others, that depend on its keys alone."""
    score = view.k.float().sum(dim=-1) * (1 + view.positions % 3) + view.positions % 5
    return ops.top_tokens(score, case.keep)


def targets(merger: TokenMerger, case: ViewCase, view: CacheView) -> list[Tensor]:
    """Where every token goes; NotMade if that is of another form, which one promise is about."""
    target = merger.assign(view, kept_of(view, case))
    if not isinstance(target, Tensor) or target.shape != view.positions.shape or target.dtype != torch.int64:
        raise NotMade("see assigns_every_token")
    return [target]


def weights(merger: TokenMerger, view: CacheView) -> list[Tensor]:
    """What every token weighs, if that is not what it counts; NotMade if that is of another form, as above."""
    weight = merger.weights(view)
    if weight is None:
        return []
    if not isinstance(weight, Tensor) or weight.shape != view.positions.shape or weight.dtype != torch.float32:
        raise NotMade("see weights_are_positive")
    return [weight]


def asking(make: Make, case: ViewCase) -> views.Ask:
    """A new merger each time, and its answer to a view: where every token goes, and its weight if it has one."""

    def ask() -> views.Answer:
        merger = make()
        return lambda view: targets(merger, case, view) + weights(merger, view)

    return ask


def check_is_a_value(make: Make) -> None:
    """A frozen attrs class without tensors: one merger can serve many models at once."""
    check_value(make)


def check_assigns_every_token(make: Make, case: ViewCase) -> None:
    """(B, H, N) int64: for every token where it goes."""
    view = case.view()
    target, wanted = make().assign(view, kept_of(view, case)), tuple(view.positions.shape)
    assert isinstance(target, Tensor), f"it returned {refused(target)}; wanted int64 of shape {wanted}"
    assert tuple(target.shape) == wanted, f"it returned {refused(target)}; wanted {wanted}"
    assert target.dtype == torch.int64, f"it returned {refused(target)}; wanted int64"


def check_targets_exist(make: Make, case: ViewCase) -> None:
    """Every token goes to one of the ``keep`` that stay, counted among those that stay, or is dropped (-1)."""
    target = targets(make(), case, case.view())[0]
    low, high = int(target.min()), int(target.max())
    assert low >= -1, f"a token goes to {low}; dropping is -1"
    assert high < case.keep, f"a token goes to {high}; {case.keep} stay, numbered from 0"


def check_kept_tokens_stay_themselves(make: Make, case: ViewCase) -> None:
    """A token that stays is assigned to itself: otherwise its place is empty, or another's."""
    view = case.view()
    kept = kept_of(view, case)
    own = targets(make(), case, view)[0].gather(2, kept)
    assert torch.equal(own, ops.all_tokens(kept, 0, case.keep)), "a token that stays is assigned to another one"


def check_weights_are_positive(make: Make, case: ViewCase) -> None:
    """(B, H, N) float32, finite and greater than zero, so that every mean exists; or None."""
    view = case.view()
    weight, wanted = make().weights(view), tuple(view.positions.shape)
    if weight is None:
        return
    assert isinstance(weight, Tensor), f"its weights are {refused(weight)}; wanted float32 of shape {wanted}, or None"
    assert tuple(weight.shape) == wanted, f"its weights are {refused(weight)}; wanted {wanted}"
    assert weight.dtype == torch.float32, f"its weights are {refused(weight)}; wanted float32"
    assert bool(weight.isfinite().all()), "a token's weight is nan or inf"
    assert bool((weight > 0).all()), f"a token weighs {float(weight.min()):g}; wanted more than zero"


@only_if(lambda merger: merger.conserves and not merger.drops, "it drops tokens, and says so")
def check_counts_add_up(make: Make, case: ViewCase) -> None:
    """Nothing is lost: the counts of those that stay add up to the tokens seen."""
    view = case.view()
    target = targets(make(), case, view)[0]
    lost = int((target < 0).sum())
    assert not lost, f"it drops {lost} tokens; a merger that does so says conserves = False"
    if int(target.max()) >= case.keep:
        raise NotMade("see targets_exist")
    counts = torch.ones_like(view.k[..., 0], dtype=torch.float32) if view.counts is None else view.counts
    _, folded = ops.fold(view.v, counts, counts, target, case.keep)
    assert torch.equal(folded.sum(dim=2), counts.sum(dim=2)), "the counts do not add up to the tokens seen"


@only_if(lambda merger: merger.drops, "it folds")
def check_drops_what_it_says(make: Make, case: ViewCase) -> None:
    """A merger with ``drops`` folds nothing, since the cache will carry no counts for it."""
    folded = int((targets(make(), case, case.view())[0] >= 0).sum()) - case.keep * case.rows * case.heads
    assert not folded, f"it says drops = True and folds {folded} tokens"


def check_rows_permute(make: Make, case: ViewCase) -> None:
    """Rows in another order get the answers in that order: an image does not depend on its place in the batch."""
    case = case.with_several(rows=3)
    views.rows_permute(asking(make, case), case.view())


def check_rows_are_apart(make: Make, case: ViewCase) -> None:
    """A row alone is answered as in company: an image does not depend on the images beside it."""
    case = case.with_several(rows=2)
    views.rows_alone(asking(make, case), case.view())


def check_heads_are_apart(make: Make, case: ViewCase) -> None:
    """A head alone is answered as in company: which heads are stored together is the cache's business."""
    case = case.with_several(heads=2)
    views.heads_alone(asking(make, case), case.view())


def check_repeats_itself(make: Make, case: ViewCase) -> None:
    """The same view gets the same answer, from the same and from an equal merger."""
    views.repeats(asking(make, case), case.view())


def check_remembers_nothing(make: Make, case: ViewCase) -> None:
    """No state survives: other images, batches and schedules in between change nothing."""
    views.remembers_nothing(asking(make, case), case, ())


def check_ignores_global_randomness(make: Make, case: ViewCase) -> None:
    """Global generators are neither read nor moved: seeds belong to the user's sampling."""
    views.ignores_randomness(asking(make, case), case.view())


def check_leaves_its_input_alone(make: Make, case: ViewCase) -> None:
    """Keys, values and positions are the cache's; nothing of a view is written to."""
    views.leaves_its_input(asking(make, case), case, ())


def check_stays_on_the_device(make: Make, case: ViewCase) -> None:
    """It never asks what a tensor holds and makes no tensor elsewhere, so that the host need not wait for the device."""
    views.stays_on_the_device(asking(make, case), case.view())
