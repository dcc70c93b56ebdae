"""What a token merger is checked for."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from scalekv_core import ops
from scalekv_core.contracts.strategies import TokenMerger
from scalekv_core.contracts.view import CacheView
from scalekv_core.testing.cases import ImageCase, ViewCase
from scalekv_core.testing.checks import options, views, whole
from scalekv_core.testing.common import Blocked, check_value, made_on_few, only_if, refused, rounding, same_bits

Make = Callable[[], TokenMerger]


def kept_of(view: CacheView, case: ViewCase) -> Tensor:
    """(B, H, keep) tokens that are kept: in every row and head others, that depend on its keys alone."""
    score = view.k.float().sum(dim=-1) * (1 + view.positions % 3) + view.positions % 5
    return ops.top_tokens(score, case.keep)


def targets(merger: TokenMerger, case: ViewCase, view: CacheView, kept: Tensor | None = None) -> list[Tensor]:
    """Where every token goes; Blocked if that is of another form, which one check is about."""
    target = merger.assign(view, kept_of(view, case) if kept is None else kept)
    if not isinstance(target, Tensor) or target.shape != view.positions.shape or target.dtype != torch.int64:
        raise Blocked("assigns_every_token", f"it returned {refused(target)}")
    return [target]


def weights(merger: TokenMerger, view: CacheView) -> list[Tensor]:
    """What every token weighs, if that is not what it counts; Blocked if that is of another form, as above."""
    weight = merger.weights(view)
    if weight is None:
        return []
    if not isinstance(weight, Tensor) or weight.shape != view.positions.shape or weight.dtype != torch.float32:
        raise Blocked("weights_are_positive", f"its weights are {refused(weight)}")
    return [weight]


def counts_of(view: CacheView) -> Tensor:
    """(B, H, N) how many tokens each one stands for."""
    return torch.ones_like(view.k[..., 0], dtype=torch.float32) if view.counts is None else view.counts


def answer(merger: TokenMerger, case: ViewCase, view: CacheView) -> list[Tensor]:
    """Where every token goes, and its weight if it has one."""
    return targets(merger, case, view) + weights(merger, view)


def asked(make: Make) -> views.Questions:
    """How mergers are asked."""
    return views.Questions(make, lambda _, case: case.view(), answer)


def answer_anew(merger: TokenMerger, case: ViewCase) -> list[Tensor]:
    """What it answers to the view of a case."""
    return answer(merger, case, case.view())


def check_is_a_value(make: Make) -> None:
    """A frozen attrs class without tensors: one merger can serve many models at once."""
    check_value(make)


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
    for name, x in (("key", view.k), ("value", view.v)):
        folded, _ = ops.fold(x, weight, counts_of(view), target, case.keep)
        low, high = _range_of_folded(x.float(), target, case.keep)
        slack = 8 * torch.maximum(rounding(low.to(x.dtype)), rounding(high.to(x.dtype)))
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


def check_rows_permute(make: Make, case: ViewCase) -> None:
    """Rows in another order get the answers in that order: an image does not depend on its place in the batch."""
    views.rows_permute(asked(make), case)


def check_rows_are_apart(make: Make, case: ViewCase) -> None:
    """A row gets the same answer alone and in a batch: an image does not depend on the images beside it."""
    views.rows_alone(asked(make), case)


def check_heads_are_apart(make: Make, case: ViewCase) -> None:
    """A head gets the same answer alone and in a group: the cache decides which heads are stored together."""
    views.heads_alone(asked(make), case)


def check_repeats_itself(make: Make, case: ViewCase) -> None:
    """The same view gets the same answer, from the same and from an equal merger, with and without gradients."""
    views.repeats(asked(make), case)


@made_on_few(2)
def check_remembers_nothing(make: Make, case: ViewCase) -> None:
    """The answer does not depend on what was asked before: other images, batches, layers and schedules change nothing."""
    views.remembers_nothing(asked(make), case)


@made_on_few(10, real_sizes=1)
def check_keeps_nothing(make: Make, case: ViewCase) -> None:
    """No tensor and no number of an image stays in the merger, its class or its module: that is memory, or state."""
    views.keeps_nothing(asked(make), case)


@made_on_few(4, real_sizes=0)
def check_images_do_not_mix(make: Make, case: ImageCase) -> None:
    """Two images that are generated alternately are what they are one after the other."""
    whole.images_do_not_mix(lambda: whole.policy_around(make()), case)


@made_on_few(10, real_sizes=0)
def check_nothing_is_hoarded(make: Make, case: ImageCase) -> None:
    """While an image is generated, no key or value of an earlier scale stays in memory beside the cache."""
    whole.nothing_is_hoarded(lambda: whole.policy_around(make()), case)


def check_ignores_global_randomness(make: Make, case: ViewCase) -> None:
    """Global generators are neither read nor moved: seeds belong to the user's sampling."""
    views.ignores_randomness(asked(make), case)


def check_leaves_its_input_alone(make: Make, case: ViewCase) -> None:
    """Keys, values and positions are the cache's; nothing of a view, and no index of a kept token, is written to."""
    views.leaves_its_input(asked(make), case)
    view = case.view()
    kept = kept_of(view, case)
    untouched = kept.clone()
    answered = targets(make(), case, view, kept)[0]
    assert same_bits(untouched, kept), "it writes to the indices of the tokens that are kept"
    assert answered.untyped_storage().data_ptr() != kept.untyped_storage().data_ptr(), (
        "its answer is a view of its input"
    )


def check_stays_on_the_device(make: Make, case: ViewCase) -> None:
    """It never asks what a tensor holds and makes no tensor elsewhere, so that the host need not wait for the device."""
    views.stays_on_the_device(asked(make), case)


def check_memory_is_linear(make: Make) -> None:
    """Temporary memory grows with the cached tokens, not with their square: at 1024 x 1024 there are 6,425 in each head."""
    views.memory_is_linear(asked(make))


def check_is_quick(make: Make) -> None:
    """At the size of a published model it answers within a second: it is asked some hundred times for each image."""
    views.is_quick(asked(make))


@made_on_few(10, real_sizes=0)
def check_is_quiet(make: Make, case: ViewCase) -> None:
    """It prints nothing, warns of nothing, and leaves the settings of torch and of the process alone."""
    views.is_quiet(asked(make), case)


def check_another_process_agrees(make: Make) -> None:
    """The same seed gives the same image tomorrow: hashes of texts, ids and the clock are others in every process."""
    views.agrees_elsewhere(make, answer_anew)


@made_on_few(3)
def check_options_work(make: Make, case: ViewCase) -> None:
    """With every option set to other values that it accepts it still assigns every token to a kept one."""

    def both(other: Make) -> None:
        check_assigns_every_token(other, case)
        check_targets_exist(other, case)
        check_kept_tokens_stay_themselves(other, case)

    options.each_option(make, both)
