"""What a token merger is checked for."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from scalekv_core import ops
from scalekv_core.contracts.strategies import TokenMerger
from scalekv_core.testing.cases import ViewCase
from scalekv_core.testing.checks import options
from scalekv_core.testing.checks.asking import counts_of, kept_of, targets, weights
from scalekv_core.testing.common import Blocked, made_on_few, only_if, refused, rounding, same_bits

Make = Callable[[], TokenMerger]


@made_on_few(1, real_sizes=4)
def check_assigns_every_token(make: Make, case: ViewCase) -> None:
    """(B, H, N) int64: for every token where it goes."""
    view = case.view()
    target, wanted = make().assign(view, kept_of(view, case)), tuple(view.positions.shape)
    assert isinstance(target, Tensor), f"it returned {refused(target)}; wanted int64 of shape {wanted}"
    assert tuple(target.shape) == wanted, f"it returned {refused(target)}; wanted {wanted}"
    assert target.dtype == torch.int64, f"it returned {refused(target)}; wanted int64"
    assert target.device == view.k.device, f"it answered on {target.device}; the keys are on {view.k.device}"


def check_targets_exist(make: Make, case: ViewCase) -> None:
    """Every token goes to one of the ``keep`` kept tokens, numbered among those, or is dropped (-1)."""
    target = targets(make(), case, case.view())[0]
    low, high = int(target.min()), int(target.max())
    assert low >= -1, f"a token goes to {low}; dropping is -1"
    assert high < case.keep, f"a token goes to {high}; {case.keep} are kept, numbered from 0"


def check_kept_tokens_stay_themselves(make: Make, case: ViewCase) -> None:
    """A kept token is assigned to itself: otherwise nothing is kept in its slot, or another token."""
    view = case.view()
    kept = kept_of(view, case)
    own = targets(make(), case, view)[0].gather(2, kept)
    assert torch.equal(own, ops.all_tokens(kept, 0, case.keep)), "a kept token is assigned to another one"


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


@only_if(lambda merger: not merger.drops, "it folds nothing")
def check_folded_values_lie_between(make: Make, case: ViewCase) -> None:
    """What a kept token becomes is a mean: no key and no value leaves the range of those that were folded into it.

    Weights whose sum overflows, or is lost to rounding, make a mean of zero or of nothing.
    """
    merger, view = make(), case.view()
    target = targets(merger, case, view)[0]
    if int(target.max()) >= case.keep or int(target.min()) < -1:
        raise Blocked("targets_exist", "a token goes to one that is not kept")
    weight = (weights(merger, view) or [counts_of(view)])[0]
    terms = 8 + view.k.shape[2]  # a sum is rounded once for each token that it adds
    for name, x in (("key", view.k), ("value", view.v)):
        folded, _ = ops.fold(x, weight, counts_of(view), target, case.keep)
        low, high = _range_of_folded(x.float(), target, case.keep)
        slack = terms * torch.maximum(rounding(low.to(x.dtype)), rounding(high.to(x.dtype)))
        off = torch.maximum(low - folded.float(), folded.float() - high) - slack
        worst = float(off.nan_to_num(torch.inf).max())
        assert worst <= 0, f"a folded {name} is not between those that were folded into it, but {worst:.3g} beside"


def _range_of_folded(x: Tensor, target: Tensor, keep: int) -> tuple[Tensor, Tensor]:
    """(B, H, keep, D) least and greatest of the numbers that go to each kept token."""
    bin_of = target.where(target >= 0, keep).unsqueeze(3).expand_as(x)
    empty = x.new_zeros(*x.shape[:2], keep + 1, x.shape[3])
    low = empty.scatter_reduce(2, bin_of, x, "amin", include_self=False)
    high = empty.scatter_reduce(2, bin_of, x, "amax", include_self=False)
    return low[:, :, :keep], high[:, :, :keep]


@only_if(lambda merger: merger.conserves and not merger.drops, "it drops tokens, and says so")
def check_counts_add_up(make: Make, case: ViewCase) -> None:
    """Nothing is lost: the counts of the kept tokens add up to the tokens seen."""
    view = case.view()
    target = targets(make(), case, view)[0]
    lost = int((target < 0).sum())
    assert not lost, f"it drops {lost} tokens; a merger that does so says conserves = False"
    if int(target.max()) >= case.keep:
        raise Blocked("targets_exist", "a token goes to one that is not kept")
    counts = counts_of(view)
    _, folded = ops.fold(view.v, counts, counts, target, case.keep)
    assert torch.equal(folded.sum(dim=2), counts.sum(dim=2)), "the counts do not add up to the tokens seen"


@only_if(lambda merger: merger.drops, "it folds")
def check_drops_what_it_says(make: Make, case: ViewCase) -> None:
    """A merger with ``drops`` folds nothing, since the cache carries no counts for it."""
    folded = int((targets(make(), case, case.view())[0] >= 0).sum()) - case.keep * case.rows * case.heads
    assert not folded, f"it says drops = True and folds {folded} tokens"


def check_leaves_indices_alone(make: Make, case: ViewCase) -> None:
    """The indices of kept tokens are not written to, and its answer is no view of them."""
    merger, view = make(), case.view()
    kept = kept_of(view, case)
    untouched = kept.clone()
    answered = targets(merger, case, view, kept)[0]
    assert same_bits(untouched, kept), "it writes to the indices of the tokens that are kept"
    assert answered.untyped_storage().data_ptr() != kept.untyped_storage().data_ptr(), (
        "its answer is a view of its input"
    )


@made_on_few(3)
def check_options_work(make: Make, case: ViewCase) -> None:
    """With every option set to other values that it accepts it still assigns every token to a kept one."""

    def both(other: Make) -> None:
        check_assigns_every_token(other, case)
        check_targets_exist(other, case)
        check_kept_tokens_stay_themselves(other, case)

    options.each_option(make, both)
