"""What would make a batch fit, or how much more would: found by planning again, never by a formula. And the refusal of one
that does not fit, which says it.

Changes are tried from those that cost nothing in the images to those that cost most: encode the prompts first and let the
text encoder go; store what is kept in fewer bits; keep less; draw fewer images at once; draw smaller ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from typing import Any

from attrs import evolve, frozen

from scalekv_core.errors import BudgetError, InputError, ScaleKVError
from scalekv_core.memory.estimate import MemoryPlan
from scalekv_core.planning.budget import Budget
from scalekv_core.planning.spending import stored_slot_bytes
from scalekv_core.plugins.registry import Registry, shared_registry
from scalekv_core.shapes.geometry import format_bytes, plural

MOST_IMAGES = 4096
STEPS = 1000
"""Budgets are tried in tenths of a percent of the history."""
LET_GO = "encode the prompts first and let the text encoder go (--no-text-encoder)"
Change = Iterator[tuple[str, dict[str, Any]]]
"""In words, and what to plan again with."""


@frozen(eq=False, kw_only=True)
class Suggestion:
    """A change that makes a batch fit.

    Attributes:
        change: what to do, in words.
        plan: the batch after it.
    """

    change: str
    plan: MemoryPlan


def most_images(plan: MemoryPlan) -> int | None:
    """The largest batch that fits with nothing else changed; None if not even one image does."""

    def fits(images: int) -> bool:
        again = _tried(plan, batch=evolve(plan.batch, images=images))
        return again is not None and again.fits

    if not plan.fits:
        return _last(fits, 1, plan.batch.images) if plan.batch.images > 1 and fits(1) else None
    low, high = plan.batch.images, plan.batch.images + 1
    while high < MOST_IMAGES and fits(high):
        low, high = high, 2 * high
    return _last(fits, low, high)


def most_budget(plan: MemoryPlan) -> Budget | None:
    """The largest budget that fits with nothing else changed, in tenths of a percent of the history; None if none does, or
    if it is not the policy's to choose."""
    if not plan.planned.policy.allocator.spends_all:
        return None
    best, low, high = None, 0, STEPS + 1
    while high - low > 1:
        budget = Budget(Fraction((low + high) // 2, STEPS))
        try:
            fits = plan.again(budget=budget).fits
        except BudgetError:  # below what the policy needs
            low = (low + high) // 2
            continue
        best = budget if fits else best
        low, high = ((low + high) // 2, high) if fits else (low, (low + high) // 2)
    return best


def cheapest(plan: MemoryPlan, *, registry: Registry | None = None) -> Suggestion | None:
    """The change that costs the images least and makes the batch fit; None if it fits already, or nothing helps.

    Args:
        plan: what does not fit.
        registry: whose codecs may be taken; the installed plugins by default.
    """
    if plan.memory is None or plan.fits or sum(plan.need.weights.values()) > plan.memory:
        return None
    changes = _changes(plan, registry or shared_registry())
    return next((suggestion for suggestion in changes if suggestion.plan.fits), None)


def check_fits(plan: MemoryPlan, *, registry: Registry | None = None) -> None:
    """Refuses a batch that takes more than there is, before anything is allocated.

    Args:
        plan: of the batch.
        registry: whose codecs may be taken; the installed plugins by default.

    Raises:
        InputError: it does not fit; says what takes how much, and what would fit.
    """
    if not plan.fits:
        raise InputError(f"{what_it_takes(plan)}; {what_would_fit(plan, registry=registry)}")


def what_it_takes(plan: MemoryPlan) -> str:
    """The batch, the bytes that it takes at one moment, those that there are, and the parts, in one line."""
    batch, planned, need = plan.batch, plan.planned, plan.need
    there = "" if plan.memory is None else f" of {format_bytes(plan.memory)}"
    return (
        f"{plural(batch.images, 'image')} of {batch.model!r} under policy {planned.policy.name!r} at {planned.budget} take "
        f"{format_bytes(need.total)}{there} while {need.when} ({need.breakdown})"
    )


def what_would_fit(plan: MemoryPlan, *, registry: Registry | None = None) -> str:
    """The largest batch, the largest budget, and for what does not fit the cheapest change, in one line."""
    images, budget = most_images(plan), most_budget(plan)
    said = [
        "not even one image fits" if images is None else f"the largest batch that fits is {plural(images, 'image')}"
    ]
    if plan.planned.policy.allocator.spends_all:
        said.append("no budget fits" if budget is None else f"the largest budget that fits is {str(budget)!r}")
    if not plan.fits:
        suggestion = cheapest(plan, registry=registry)
        weights = format_bytes(sum(plan.need.weights.values()))
        said.append(
            f"cheapest change: {suggestion.change}" if suggestion else f"no change helps: weights take {weights}"
        )
    return "; ".join(said)


def _changes(plan: MemoryPlan, registry: Registry) -> Iterator[Suggestion]:
    """Each change, alone and then without the text encoder too. Plans are made as they are asked for."""
    bases = [("", plan)]
    if (
        plan.need.text_encoder
        and plan.keeps_text_encoder
        and (leaner := _tried(plan, keep_text_encoder=False)) is not None
    ):
        yield Suggestion(change=LET_GO, plan=leaner)
        bases.append((f"{LET_GO}, and ", leaner))
    for cut in (partial(_codecs, registry=registry), _budgets, _batches, _sizes):
        for before, base in bases:
            for change, changed in cut(base):
                if (again := _tried(base, **changed)) is not None:
                    yield Suggestion(change=before + change, plan=again)


def _codecs(plan: MemoryPlan, registry: Registry) -> Change:
    for codec in _smaller_codecs(plan, registry):
        policy = registry.policy(plan.planned.policy, codec=codec)
        yield f"store what is kept with --codec {codec}", {"policy": policy}


def _budgets(plan: MemoryPlan) -> Change:
    if (budget := most_budget(plan)) is not None:
        yield f"keep less with --budget '{budget}'", {"budget": budget}


def _batches(plan: MemoryPlan) -> Change:
    if (images := most_images(plan)) is not None:
        yield f"draw {plural(images, 'image')} at once", {"batch": evolve(plan.batch, images=images)}


def _sizes(plan: MemoryPlan) -> Change:
    for size in reversed(plan.batch.card.sizes):
        smaller = evolve(plan.batch, size=size)
        if smaller.geometry.schedule.total < plan.batch.geometry.schedule.total:
            yield f"draw smaller images with --size {size}", {"batch": smaller}


def _smaller_codecs(plan: MemoryPlan, registry: Registry) -> list[str]:
    """Codecs that store a token in fewer bytes of the device than the policy's: those that leave it, then the largest."""
    policy, geometry, sizes = plan.planned.policy, plan.planned.geometry, {}
    for name in registry.names("codec"):
        try:
            changed = registry.policy(policy, codec=name)
            sizes[name] = not changed.codec.leaves_device and stored_slot_bytes(changed, geometry)
        except ScaleKVError:  # not for this device, or not for heads of this width
            continue
    now = not policy.codec.leaves_device and stored_slot_bytes(policy, geometry)
    return sorted((name for name in sizes if sizes[name] < now), key=lambda name: (bool(sizes[name]), -sizes[name]))


def _tried(plan: MemoryPlan, **changes: Any) -> MemoryPlan | None:
    """The plan with something changed; None where that cannot be done."""
    try:
        return plan.again(**changes)
    except ScaleKVError:
        return None


def _last(fits: Callable[[int], bool], low: int, high: int) -> int:
    """The last number that fits, where ``low`` does and ``high`` is known not to, or is not to be tried."""
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
