"""What a whole policy is checked for, with images through the real cache."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from attrs import evolve
from numpy.typing import NDArray
from torch import Tensor

from scalekv_core import ops
from scalekv_core.cache.concat_cache import ConcatCache
from scalekv_core.contracts.encoded import KINDS, Kind
from scalekv_core.contracts.policy import Policy
from scalekv_core.contracts.roles import LayerRoles
from scalekv_core.contracts.strategies import CacheCodec
from scalekv_core.errors import BudgetError, InputError
from scalekv_core.testing import real_sizes
from scalekv_core.testing.cases import ImageCase, read_maps
from scalekv_core.testing.checks import whole
from scalekv_core.testing.common import (
    Blocked,
    NeverApplies,
    NotApplicable,
    Refused,
    all_same,
    check_randomness,
    check_value,
    made_on_few,
    only_if,
    rounding,
    same_bits,
)
from scalekv_core.testing.elsewhere import digests, elsewhere
from scalekv_core.testing.images import Image, Seen, plan_for, profile_of
from scalekv_core.testing.manners import quietly
from scalekv_core.testing.state import Contents

Make = Callable[[], Policy]
ROUNDING = {torch.float32: 1e-4, torch.bfloat16: 4e-2, torch.float16: 4e-3}
"""How far attention in this dtype may be from attention in float64, as a share of the largest value."""


def check_is_a_value(make: Make) -> None:
    """A frozen value of frozen parts: one policy can serve many models at once."""
    check_value(make)
    for part in make().parts:
        check_value(lambda part=part: getattr(make(), part))  # type: ignore[misc]


def check_plans_within_its_budget(make: Make, case: ImageCase) -> None:
    """The plan holds no more tokens than the budget buys and, where the budget is bytes, no more bytes."""
    try:
        planned = plan_for(make(), case)
    except Blocked as blocked:
        raise AssertionError(blocked.reason) from None
    budget = planned.budget
    if budget.unit == "bytes":
        most = planned.footprint.most_planned
        assert most <= budget.amount, f"budget {budget} and {most} bytes planned"


@only_if(lambda policy: not whole.is_for_some(policy), "it is for other models")
def check_usual_budgets_are_accepted(make: Make) -> None:
    """For the published models its own default budget and 10 % can be planned: what users get who say nothing."""
    for case in real_sizes.plans():
        shape = {name: getattr(case, name) for name in ("maps", "layers", "heads", "width", "dtype")}
        policy = make()
        for budget in ("", "10%", "50%") if policy.allocator.spends_all else ("",):
            try:
                plan_for(policy, ImageCase(**shape, budget=budget))
            except (InputError, Refused, Blocked) as error:
                which = f"budget {budget}" if budget else f"its own budget, {policy.budget!r},"
                raise AssertionError(
                    f"{which} fails for {case.layers} layers x {case.heads} heads and maps {case.maps}: {error}"
                ) from error


def _noting(roles: LayerRoles, asked: set[str]) -> LayerRoles:
    """The same roles, which note the names that they are asked for, and "" where labels are read without a name."""

    class Noting(LayerRoles):
        def is_role(self, name: str) -> NDArray[np.bool_]:
            asked.add(name)
            return roles.is_role(name)

        def __getattribute__(self, name: str) -> Any:
            if name in ("names", "labels", "scores"):
                asked.add("")
            return super().__getattribute__(name)

    noting = Noting(roles.names, roles.labels, roles.scores)
    asked.clear()  # of what the class itself has read
    return noting


@only_if(lambda policy: not whole.is_for_some(policy), "it is for other models")
def check_roles_are_read(make: Make) -> None:
    """The allocator asks for roles that the classifier gives: a name that is spelt otherwise belongs to no layer."""
    for case in real_sizes.plans()[:2]:
        policy, asked = make(), set[str]()
        roles = policy.classifier.classify(profile_of(case) if policy.needs_profile else None, case.geometry)
        if len(np.unique(roles.labels)) == 1:
            continue
        slots = case.maps.last_history * case.geometry.slots_per_token // 4
        with contextlib.suppress(BudgetError):
            policy.allocator.allocate(case.geometry, _noting(roles, asked), slots)
        known = ", ".join(roles.names)
        assert asked, f"the classifier gives the roles {known}, and the allocator asks for none of them"
        assert asked & {"", *roles.names}, (
            f"the allocator asks for the role {', '.join(sorted(asked))}; the classifier gives {known}"
        )


def check_answers_are_accepted(make: Make, case: ImageCase) -> None:
    """The cache, which checks every answer of selector, merger and codec, finds nothing wrong with any of them."""
    image = Image.of(make(), case)
    try:
        image.generate(image.cache())
    except Blocked as blocked:
        raise AssertionError(blocked.reason) from None


@made_on_few(1, real_sizes=2)
def check_holds_what_was_planned(make: Make, case: ImageCase) -> None:
    """After every scale every head holds the planned tokens, within its capacity, and resident bytes are planned bytes."""
    image = Image.of(make(), case)
    plan, cache = image.planned.plan, image.cache()
    for scale in range(len(plan.schedule)):
        image.generate_scale(cache, scale)
        held = [cache.held_tokens(layer) for layer in range(plan.layers)]
        assert plan.held[scale].tolist() == held, (
            f"after scale {scale} it holds {held}; planned {plan.held[scale].tolist()}"
        )
        assert (plan.capacity[scale] >= plan.held[scale]).all()
        planned, resident = image.planned.footprint.planned[scale], cache.resident_bytes()
        assert planned == resident, f"after scale {scale} {planned} bytes are planned and {resident} are resident"


@only_if(lambda policy: policy.merger.drops, "its merger folds")
def check_kept_tokens_are_the_originals(make: Make, case: ImageCase) -> None:
    """Every kept key and value is that of its position, bit by bit, or within the codec's stated error."""
    image, seen = Image.of(make(), case), Seen()
    image.generate(image.cache(seen))
    for view in seen.views:
        for original, read, kind in zip(image.layers[view.layer][1:], (view.k, view.v), KINDS, strict=True):
            kept = ops.gather_tokens(original[:, list(view.heads)], view.positions.long())
            bound = stated_bound(image.planned.policy.codec, original, case.maps.tokens, kind)[:, list(view.heads)]
            assert as_near_as(ops.gather_tokens(bound, view.positions.long()), kept, read), (
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
    """Positions travel with their tokens: ascending, each once, of maps that were generated, the current map at the end."""
    image, seen = Image.of(make(), case), Seen()
    image.generate(image.cache(seen))
    for view in seen.views:
        where = f"layer {view.layer}, scale {view.scale}"
        assert bool((view.positions.diff(dim=-1) > 0).all()), f"{where}: positions do not ascend"
        start, stop = case.maps.history[view.scale], case.maps.seen[view.scale]
        current = torch.arange(start, stop, dtype=view.positions.dtype, device=view.positions.device)
        assert bool((view.positions[:, :, view.history :] == current).all()), f"{where}: the map is not seen whole"


@only_if(lambda policy: not policy.merger.drops and policy.merger.conserves, "its merger gives tokens up")
def check_counts_add_up(make: Make, case: ImageCase) -> None:
    """With folding the counts add up to all tokens seen, at every scale, in every row and head."""
    image, seen = Image.of(make(), case), Seen()
    image.generate(image.cache(seen))
    for view in seen.views:
        held_before = image.planned.plan.held[: view.scale, view.layer, list(view.heads)]
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
    image, seen = Image.of(make(), case), Seen()
    outputs = image.generate(image.cache(seen))
    for view in seen.views:
        out = outputs[view.scale * len(image.layers) + view.layer][:, list(view.heads)]
        expected = image.plain_attention(view)
        worst = (out.double() - expected).abs().max().item() / max(1.0, expected.abs().max().item())
        assert worst <= ROUNDING[out.dtype], f"layer {view.layer}, scale {view.scale}: attention is off by {worst:.2g}"


@only_if(lambda policy: not whole.is_for_some(policy), "it is for other budgets")
def check_the_whole_budget_is_lossless(make: Make, case: ImageCase) -> None:
    """With a budget of 100 % the outputs are those of the unmodified model, bit by bit."""
    image = Image.of(make(), evolve(case, budget="100%"))
    if not image.is_exact:
        raise NeverApplies("its codec is lossy, and says so")
    assert all_same(image.generate(ConcatCache()), image.generate(image.cache())), "the outputs are not bit-identical"


@only_if(lambda policy: policy.allocator.spends_all, "the budget is not its to choose")
def check_a_small_budget_drops(make: Make, case: ImageCase) -> None:
    """A budget below the whole history drops tokens: a policy that does nothing is an error, not silence."""
    policy = make()
    planned, image = plan_for(policy, case), Image.of(policy, case)
    places = case.geometry.slots_per_token
    if planned.slots > case.maps.last_history * places - places:
        raise NotApplicable("it buys the whole history, or nearly")
    assert planned.plan.drops, f"under {planned.budget} its plan drops nothing"
    cache = image.cache()
    image.generate(cache)
    assert image.planned.plan.drops == cache.dropped, "its plan says that tokens are dropped, and none was"


def check_the_last_map_is_not_stored(make: Make, case: ImageCase) -> None:
    """After the last scale nothing is held: no later scale attends to it."""
    image = Image.of(make(), case)
    cache = image.cache()
    image.generate(cache)
    held = [tuple(tensor.shape) for tensor in cache.tensors()]
    assert not held, f"after the last scale it still holds tensors of shapes {held}"
    assert cache.complete, "not every layer has seen every scale"


@made_on_few(1, real_sizes=1)
def check_repeats_itself(make: Make, case: ImageCase) -> None:
    """The same image again gives the same outputs, bit by bit, from the same and from an equal policy."""
    policy = make()
    untouched = Contents.of(policy)
    try:
        image, again = Image.of(policy, case), Image.of(make(), case)
        first = image.generate(image.cache())
        assert all_same(first, image.generate(image.cache())), "the second image with the same tensors is another one"
        assert all_same(first, again.generate(again.cache())), "an equal policy gives another image"
    finally:
        untouched.restore()


@made_on_few(2)
def check_remembers_nothing(make: Make, case: ImageCase) -> None:
    """An image does not depend on those before: of the same shape, of another schedule and batch, or broken off."""
    policy = make()
    untouched = Contents.of(policy)
    try:
        image = Image.of(policy, case)
        first = image.generate(image.cache())
        untouched.restore()
        for other in _others(policy, case):
            other.generate(other.cache(), scales=len(other.planned.plan.schedule) - other.planned.geometry.rows % 2)
            assert all_same(first, image.generate(image.cache())), "after another image the same one is another"
    finally:
        untouched.restore()


def _others(policy: Policy, case: ImageCase) -> Iterator[Image]:
    """Images of the same shape, and of others where the policy is for all models."""
    yield Image.of(policy, evolve(case, seed=case.seed + 1))
    if not whole.is_for_some(policy):
        other = evolve(case, maps=read_maps("1x1,2x1,1x3"), rows=case.rows + 1, layers=case.layers + 2, budget="100%")
        yield Image.of(policy, other)


@made_on_few(10, real_sizes=0)
def check_keeps_nothing(make: Make, case: ImageCase) -> None:
    """Nothing of an image stays in the policy, its parts, their classes or modules; only what its shape decides may."""
    policy = make()
    case = whole.busy(policy, case)
    untouched = Contents.of(policy)

    def generate(seed: int) -> None:
        image = Image.of(policy, evolve(case, seed=case.seed + seed))
        image.generate(image.cache())

    try:
        generate(0)
        generate(1)
        before = Contents.of(policy)
        generate(2)
        changed = before.changes(Contents.of(policy))
        assert not changed, f"every image changes what {changed[0]} holds"
    finally:
        untouched.restore()


@made_on_few(3)
def check_images_do_not_mix(make: Make, case: ImageCase) -> None:
    """Two images that are generated alternately are what they are one after the other."""
    whole.images_do_not_mix(make, case)


@made_on_few(10)
def check_nothing_is_hoarded(make: Make, case: ImageCase) -> None:
    """While an image is generated, no key or value of an earlier scale stays in memory beside the cache."""
    whole.nothing_is_hoarded(make, case)


def check_an_interrupted_image_leaves_nothing(make: Make, case: ImageCase) -> None:
    """A cache that is closed in the middle holds nothing, and generates the next image as a new one would."""
    image = Image.of(make(), case)
    cache = image.cache()
    image.generate(cache, scales=1 + case.seed % len(case.maps))
    cache.close()
    assert not list(cache.tensors()), "a closed cache still holds tensors"
    assert all_same(image.generate(image.cache()), image.generate(cache)), "the next image is another one"


def check_ignores_global_randomness(make: Make, case: ImageCase) -> None:
    """Global generators are neither read nor moved: seeds belong to the user's sampling."""

    def generate() -> list[Tensor]:
        image = Image.of(make(), case)
        return image.generate(image.cache())

    check_randomness(generate)


def check_rows_permute(make: Make, case: ImageCase) -> None:
    """Rows in another order keep the tokens in that order: an image does not depend on its place in the batch."""
    case = case.with_several(rows=3)
    image, order = Image.of(make(), case), torch.arange(case.rows).flip(0)
    assert_rows_agree(image, order, "in another order of the batch")


def check_rows_are_apart(make: Make, case: ImageCase) -> None:
    """A row keeps the same tokens alone and in a batch: an image does not depend on the images beside it."""
    case = case.with_several(rows=2)
    image = Image.of(make(), case)
    for row in range(case.rows):
        assert_rows_agree(image, torch.tensor([row]), "alone in the batch")


def assert_rows_agree(image: Image, rows: Tensor, how: str) -> None:
    """With these rows only the same tokens are kept, and the outputs differ by no more than rounding.

    torch may compute a batch by another kernel, which rounds otherwise. Where that decides which tokens are kept, noise of
    the same size does, too, and nothing is concluded.
    """
    together, apart, some = Seen(), Seen(), image.rows(rows)
    expected = [x[rows] for x in image.generate(image.cache(together))]
    actual = some.generate(some.cache(apart))
    kept = all_same([x[rows] for x in together.kept], apart.kept)
    if not kept and some.is_undecided():
        raise NotApplicable("rounding decides which tokens are kept")
    assert kept, f"of rows {rows.tolist()} other tokens are kept when they are {how}"
    for one, other in zip(expected, actual, strict=True):
        near = torch.allclose(one.float(), other.float(), rtol=ROUNDING[one.dtype], atol=ROUNDING[one.dtype])
        assert near or some.is_undecided(), f"rows {rows.tolist()} are computed otherwise when they are {how}"


def check_leaves_its_input_alone(make: Make, case: ImageCase) -> None:
    """The model's queries, keys and values are not written to."""
    image, untouched = Image.of(make(), case), Image.of(make(), case)
    image.generate(image.cache())
    for mine, theirs in zip(untouched.layers, image.layers, strict=True):
        assert all_same(list(mine), list(theirs)), "it writes to the model's queries, keys or values"


def check_outputs_are_numbers(make: Make, case: ImageCase) -> None:
    """No output is nan or inf as long as every dot product is finite, however alike or extreme the tokens are."""
    for content in (case.content, "zero", "huge"):
        image = Image.of(make(), evolve(case, content=content))
        for out in image.generate(image.cache()):
            assert bool(out.isfinite().all()), f"an output of attention over {content} tokens is nan or inf"


@made_on_few(10)
def check_is_quiet(make: Make, case: ImageCase) -> None:
    """It prints nothing, warns of nothing, and leaves the settings of torch and of the process alone."""
    case = whole.busy(make(), case)
    quietly(lambda: outputs(make(), case))


def outputs(policy: Policy, case: ImageCase) -> list[Tensor]:
    """What attention gives at every scale and layer."""
    image = Image.of(policy, case)
    return image.generate(image.cache())


def check_another_process_agrees(make: Make) -> None:
    """The same seed gives the same image tomorrow: hashes of texts, ids and the clock are others in every process."""
    cases = [ImageCase.parse("maps=1x1,2x3,4x4,5x5 layers=3 heads=2 width=4 budget=50% seed=3")]
    if whole.is_for_some(make()):
        raise NeverApplies("it is for other models")
    assert digests(outputs, make, cases) == elsewhere(outputs, make, cases), (
        "another process gives another image: it depends on the hash of a text, on an id or on the clock"
    )
