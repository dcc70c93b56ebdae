"""What a whole policy promises: section 6 of the design, drawn through the real cache."""

from __future__ import annotations

from collections.abc import Callable

import torch
from attrs import evolve
from torch import Tensor

from scalekv_core import ops
from scalekv_core.cache.concat_cache import ConcatCache
from scalekv_core.contracts.encoded import KINDS, Kind
from scalekv_core.contracts.policy import Policy
from scalekv_core.contracts.strategies import CacheCodec
from scalekv_core.errors import ContractError
from scalekv_core.testing.cases import ImageCase, read_maps
from scalekv_core.testing.common import (
    NotApplicable,
    NotMade,
    all_same,
    check_randomness,
    check_value,
    only_if,
    rounding,
    same_bits,
)
from scalekv_core.testing.images import Drawing, Seen, plan_for

Make = Callable[[], Policy]
ROUNDING = {torch.float32: 1e-4, torch.bfloat16: 4e-2, torch.float16: 4e-3}
"""How far attention in this dtype may be from attention in float64, as a share of the largest value."""


def only_for(policy: Policy) -> bool:
    """Whether it is for some models only."""
    return bool(policy.allocator.only_for or policy.classifier.only_for)


def check_is_a_value(make: Make) -> None:
    """A frozen value of frozen parts: one policy can serve many models at once."""
    check_value(make)
    for part in make().parts:
        check_value(lambda part=part: getattr(make(), part))  # type: ignore[misc]


def check_plans_within_its_budget(make: Make, case: ImageCase) -> None:
    """The plan holds no more tokens than the budget buys and, where the budget is bytes, no more bytes."""
    policy = make()
    try:
        drawing = Drawing.of(policy, case)
    except NotApplicable as reason:
        cause = reason.__cause__
        assert not isinstance(cause, ContractError), str(cause)
        raise
    budget = drawing.planned.budget
    if budget.unit == "bytes" and drawing.planned.geometry == case.geometry:
        most = drawing.planned.footprint.most_planned
        assert most <= budget.amount, f"budget {budget} and {most} bytes planned"


def check_answers_are_accepted(make: Make, case: ImageCase) -> None:
    """The cache, which checks every answer of selector, merger and codec, finds nothing wrong with any of them."""
    drawing = Drawing.of(make(), case)
    try:
        drawing.draw(drawing.cache())
    except NotApplicable as reason:
        raise AssertionError(str(reason.__cause__)) from None


def check_holds_what_was_planned(make: Make, case: ImageCase) -> None:
    """After every scale every head holds the planned tokens, within its capacity, and resident bytes are planned bytes."""
    drawing = Drawing.of(make(), case)
    plan, cache = drawing.planned.plan, drawing.cache()
    for scale in range(len(plan.schedule)):
        drawing.draw_scale(cache, scale)
        held = [cache.held_tokens(layer) for layer in range(plan.layers)]
        assert plan.held[scale].tolist() == held, (
            f"after scale {scale} it holds {held}; planned {plan.held[scale].tolist()}"
        )
        assert (plan.capacity[scale] >= plan.held[scale]).all()
        planned, resident = drawing.planned.footprint.planned[scale], cache.resident_bytes()
        assert planned == resident, f"after scale {scale} {planned} bytes are planned and {resident} are resident"


@only_if(lambda policy: policy.merger.drops, "its merger folds")
def check_kept_tokens_are_the_originals(make: Make, case: ImageCase) -> None:
    """Every kept key and value is that of its position, bit by bit, or within the codec's stated error."""
    drawing, seen = Drawing.of(make(), case), Seen()
    drawing.draw(drawing.cache(seen))
    for view in seen.views:
        for whole, read, kind in zip(drawing.layers[view.layer][1:], (view.k, view.v), KINDS, strict=True):
            original = ops.gather_tokens(whole[:, list(view.heads)], view.positions.long())
            bound = stated_bound(drawing.planned.policy.codec, whole, case.maps.tokens, kind)[:, list(view.heads)]
            assert as_near_as(ops.gather_tokens(bound, view.positions.long()), original, read), (
                f"layer {view.layer}, scale {view.scale}: a {kind} is not that of its position"
            )


def stated_bound(codec: CacheCodec, whole: Tensor, tokens: tuple[int, ...], kind: Kind) -> Tensor:
    """(B, H, total, D) the error that the codec allows itself where the maps are encoded one like the other."""
    stored, bounds = None, []
    for part in whole.split(tokens, dim=2):
        fresh = codec.encode(part, kind, like=stored)
        bounds.append(codec.error_bound(fresh, kind).float().expand(part.shape))
        stored = fresh if stored is None else stored.join(fresh)
    return torch.cat(bounds, dim=2)


def as_near_as(bound: Tensor, original: Tensor, read: Tensor) -> bool:
    """Bit by bit under an exact codec; otherwise within the bound."""
    if not bool(bound.any()):
        return same_bits(original, read)
    return bool(((read.float() - original.float()).abs() <= bound + rounding(original)).all())


def check_positions_are_true(make: Make, case: ImageCase) -> None:
    """Positions travel with their tokens: ascending, each once, of maps that were drawn, the current map at the end."""
    drawing, seen = Drawing.of(make(), case), Seen()
    drawing.draw(drawing.cache(seen))
    for view in seen.views:
        where = f"layer {view.layer}, scale {view.scale}"
        assert bool((view.positions.diff(dim=-1) > 0).all()), f"{where}: positions do not ascend"
        start, stop = case.maps.history[view.scale], case.maps.seen[view.scale]
        current = torch.arange(start, stop, dtype=view.positions.dtype, device=view.positions.device)
        assert bool((view.positions[:, :, view.history :] == current).all()), f"{where}: the map is not seen whole"


@only_if(lambda policy: not policy.merger.drops and policy.merger.conserves, "its merger gives tokens up")
def check_counts_add_up(make: Make, case: ImageCase) -> None:
    """With folding the counts add up to all tokens seen, at every scale, in every row and head."""
    drawing, seen = Drawing.of(make(), case), Seen()
    drawing.draw(drawing.cache(seen))
    for view in seen.views:
        held_before = drawing.planned.plan.held[: view.scale, view.layer, list(view.heads)]
        if view.counts is None or not (held_before > 0).all():
            continue
        total = view.counts.sum(dim=2)
        assert bool((total == case.maps.seen[view.scale]).all()), (
            f"layer {view.layer}, scale {view.scale}: counts add up to {total.flatten()[0].item():g}; "
            f"{case.maps.seen[view.scale]} tokens were seen"
        )


def check_attention_is_over_what_is_held(make: Make, case: ImageCase) -> None:
    """Every map attends to exactly the tokens that are held and to the whole of itself, those folded counted."""
    if case.content in ("huge", "denormal"):
        raise NotApplicable("rounding decides")
    drawing, seen = Drawing.of(make(), case), Seen()
    outputs = drawing.draw(drawing.cache(seen))
    for view in seen.views:
        out = outputs[view.scale * len(drawing.layers) + view.layer][:, list(view.heads)]
        expected = drawing.plain_attention(view)
        worst = (out.double() - expected).abs().max().item() / max(1.0, expected.abs().max().item())
        assert worst <= ROUNDING[out.dtype], f"layer {view.layer}, scale {view.scale}: attention is off by {worst:.2g}"


@only_if(lambda policy: not only_for(policy), "it is for other budgets")
def check_the_whole_budget_is_lossless(make: Make, case: ImageCase) -> None:
    """With a budget of 100 % the outputs are those of the unmodified model, bit by bit."""
    drawing = Drawing.of(make(), evolve(case, budget="100%"))
    if not drawing.is_exact:
        raise NotMade("its codec is lossy, and says so")
    assert all_same(drawing.draw(ConcatCache()), drawing.draw(drawing.cache())), "the outputs are not bit-identical"


@only_if(lambda policy: policy.allocator.spends_all, "the budget is not its to choose")
def check_a_small_budget_drops(make: Make, case: ImageCase) -> None:
    """A budget below the whole history drops tokens: a policy that does nothing is an error, not silence."""
    policy = make()
    planned, drawing = plan_for(policy, case), Drawing.of(policy, case)
    places = case.geometry.slots_per_token
    if planned.slots > case.maps.last_history * places - places:
        raise NotApplicable("it buys the whole history, or nearly")
    assert planned.plan.drops, f"under {planned.budget} its plan drops nothing"
    cache = drawing.cache()
    drawing.draw(cache)
    assert drawing.planned.plan.drops == cache.dropped, "its plan says that tokens are dropped, and none was"


def check_the_last_map_is_not_stored(make: Make, case: ImageCase) -> None:
    """After the last scale nothing is held: nobody would read it."""
    drawing = Drawing.of(make(), case)
    cache = drawing.cache()
    drawing.draw(cache)
    held = [tuple(tensor.shape) for tensor in cache.tensors()]
    assert not held, f"after the last scale it still holds tensors of shapes {held}"
    assert cache.complete, "not every layer has seen every scale"


def check_repeats_itself(make: Make, case: ImageCase) -> None:
    """The same image again gives the same outputs, bit by bit, from the same and from an equal policy."""
    drawing, again = Drawing.of(make(), case), Drawing.of(make(), case)
    first = drawing.draw(drawing.cache())
    assert all_same(first, drawing.draw(drawing.cache())), "the second image with the same tensors is another one"
    assert all_same(first, again.draw(again.cache())), "an equal policy draws another image"


def check_remembers_nothing(make: Make, case: ImageCase) -> None:
    """No state survives: an image of another schedule and batch, and one broken off, change nothing."""
    policy = make()
    drawing = Drawing.of(policy, case)
    first = drawing.draw(drawing.cache())
    if not only_for(policy):
        other = evolve(case, maps=read_maps("1x1,2x1,1x3"), rows=case.rows + 1, seed=case.seed + 1, budget="100%")
        between = Drawing.of(policy, other)
        between.draw(between.cache())
    broken = drawing.cache()
    drawing.draw(broken, scales=len(case.maps) // 2)
    assert all_same(first, drawing.draw(drawing.cache())), "after another image the same one is drawn differently"


def check_an_interrupted_image_leaves_nothing(make: Make, case: ImageCase) -> None:
    """A cache that is closed in the middle holds nothing, and draws the next image as a new one would."""
    drawing = Drawing.of(make(), case)
    cache = drawing.cache()
    drawing.draw(cache, scales=1 + case.seed % len(case.maps))
    cache.close()
    assert not list(cache.tensors()), "a closed cache still holds tensors"
    assert all_same(drawing.draw(drawing.cache()), drawing.draw(cache)), "the next image is drawn differently"


def check_ignores_global_randomness(make: Make, case: ImageCase) -> None:
    """Global generators are neither read nor moved: seeds belong to the user's sampling."""

    def draw() -> list[Tensor]:
        drawing = Drawing.of(make(), case)
        return drawing.draw(drawing.cache())

    check_randomness(draw)


def check_rows_permute(make: Make, case: ImageCase) -> None:
    """Rows in another order keep the tokens in that order: an image does not depend on its place in the batch."""
    case = case.with_several(rows=3)
    drawing, order = Drawing.of(make(), case), torch.arange(case.rows).flip(0)
    assert_rows_agree(drawing, order, "in another order of the batch")


def check_rows_are_apart(make: Make, case: ImageCase) -> None:
    """A row alone keeps the tokens that it keeps in company: an image does not depend on the images beside it."""
    case = case.with_several(rows=2)
    drawing = Drawing.of(make(), case)
    for row in range(case.rows):
        assert_rows_agree(drawing, torch.tensor([row]), "alone in the batch")


def assert_rows_agree(drawing: Drawing, rows: Tensor, how: str) -> None:
    """Drawn with these rows only, the same tokens stay, and the outputs differ by no more than rounding."""
    together, apart, some = Seen(), Seen(), drawing.rows(rows)
    expected = [x[rows] for x in drawing.draw(drawing.cache(together))]
    actual = some.draw(some.cache(apart))
    kept = all_same([x[rows] for x in together.kept], apart.kept)
    assert kept, f"of rows {rows.tolist()} other tokens stay when they are {how}"
    for one, other in zip(expected, actual, strict=True):
        near = torch.allclose(one.float(), other.float(), rtol=ROUNDING[one.dtype], atol=ROUNDING[one.dtype])
        assert near, f"rows {rows.tolist()} are drawn differently when they are {how}"


def check_leaves_its_input_alone(make: Make, case: ImageCase) -> None:
    """The model's queries, keys and values are not written to."""
    drawing, untouched = Drawing.of(make(), case), Drawing.of(make(), case)
    drawing.draw(drawing.cache())
    for mine, theirs in zip(untouched.layers, drawing.layers, strict=True):
        assert all_same(list(mine), list(theirs)), "it writes to the model's queries, keys or values"


def check_outputs_are_numbers(make: Make, case: ImageCase) -> None:
    """No output is nan or inf as long as every dot product is finite, however alike or extreme the tokens are."""
    for content in (case.content, "zero", "huge"):
        drawing = Drawing.of(make(), evolve(case, content=content))
        for out in drawing.draw(drawing.cache()):
            assert bool(out.isfinite().all()), f"an output of attention over {content} tokens is nan or inf"
