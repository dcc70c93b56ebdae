"""Suggestions that make a batch fit, and how much more would fit: found by planning again, never by a formula.

Changes are tried from those that cost nothing in the images to those that cost most: encode the prompts first and drop the text
encoder; store what is kept in fewer bits; keep less; generate fewer images at once; generate smaller ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import cached_property
from typing import Any

from attrs import evolve, frozen

from scalekv_core.errors import BudgetError, ScaleKVError
from scalekv_core.memory.plan import MemoryPlan
from scalekv_core.planning.budget import Budget
from scalekv_core.planning.spending import stored_slot_bytes
from scalekv_core.plugins.registry import Registry, shared_registry
from scalekv_core.shapes.geometry import format_bytes, plural

MOST_IMAGES = 4096
STEPS = 1000
"""Step in which budgets are tried: a tenth of a percent of the history."""
WITHOUT_TEXT_ENCODER = "encode the prompts first and drop the text encoder (--no-text-encoder)"
Change = tuple[str, dict[str, Any]]
"""A change in words, and the arguments of :meth:`MemoryPlan.replanned`."""


@frozen(eq=False, kw_only=True)
class Suggestion:
    """A change that makes a batch fit.

    Attributes:
        change: what to do, in words.
        plan: the batch after it.
    """

    change: str
    plan: MemoryPlan


class Suggestions:
    """The suggestions for one plan; each is searched for once, when it is first needed.

    Args:
        plan: of the batch.
        registry: whose codecs may be suggested; the installed plugins by default.
    """

    def __init__(self, plan: MemoryPlan, *, registry: Registry | None = None) -> None:
        self.plan = plan
        self._registry = registry or shared_registry()

    @cached_property
    def largest_batch(self) -> int | None:
        """The most images that fit with nothing else changed; None if not even one does."""
        images, memory = self.plan.batch.images, self.plan.memory
        if memory is None:
            return max(images, MOST_IMAGES)
        if not self.plan.fits:
            one = None if images == 1 else self._need(1)
            return None if one is None or one > memory else _last(self._need, memory, (1, one), (images, self._total))
        low: Known = (images, self._total)
        high: Known = (images + 1, self._need(images + 1))
        while high[0] < MOST_IMAGES and high[1] is not None and high[1] <= memory:
            further = min(max(2 * high[0], _interpolated(low, high, memory) + 1), MOST_IMAGES)
            low, high = high, (further, self._need(further))
        if high[1] is not None and high[1] <= memory:
            return high[0]
        return _last(self._need, memory, low, high)

    @cached_property
    def largest_budget(self) -> Budget | None:
        """The largest budget that fits with nothing else changed, in tenths of a percent of the history; None if none does, or
        if the policy does not spend its budget."""
        if not self.plan.planned.policy.allocator.spends_all or self._is_too_much_without_a_cache:
            return None
        memory = self.plan.memory
        best, low, high = None, 0, STEPS + 1
        while high - low > 1:
            middle = (low + high) // 2
            budget = Budget(Fraction(middle, STEPS))
            try:
                fits = memory is None or self.plan.replanned(budget=budget).fits
            except BudgetError:  # below what the policy needs
                low = middle
                continue
            best = budget if fits else best
            low, high = (middle, high) if fits else (low, middle)
        return best

    @cached_property
    def cheapest(self) -> Suggestion | None:
        """The change that costs the images least and makes the batch fit; None if it fits already, or nothing helps."""
        plan = self.plan
        if plan.memory is None or plan.fits or sum(plan.need.weights.values()) > plan.memory:
            return None
        return next((suggestion for suggestion in self._all() if suggestion.plan.fits), None)

    @property
    def sentence(self) -> str:
        """The largest batch, the largest budget, and for what does not fit the cheapest change, in one line."""
        images, budget, plan = self.largest_batch, self.largest_budget, self.plan
        found = [
            "not even one image fits" if images is None else f"the largest batch that fits is {plural(images, 'image')}"
        ]
        if plan.planned.policy.allocator.spends_all:
            found.append("no budget fits" if budget is None else f"the largest budget that fits is {str(budget)!r}")
        if not plan.fits:
            weights = format_bytes(sum(plan.need.weights.values()))
            found.append(
                f"cheapest change: {self.cheapest.change}"
                if self.cheapest
                else f"no change helps: weights take {weights}"
            )
        return "; ".join(found)

    @property
    def _total(self) -> int:
        return self.plan.need.total

    def _need(self, images: int) -> int | None:
        """Bytes of so many images; None if they cannot be planned."""
        changed = _tried(self.plan, batch=evolve(self.plan.batch, images=images))
        return None if changed is None else changed.need.total

    def _all(self) -> Iterator[Suggestion]:
        """Each change, alone and then also without the text encoder, planned lazily."""
        bases = [("", self)]
        if self.plan.need.text_encoder and self.plan.keeps_text_encoder:
            leaner = _tried(self.plan, keep_text_encoder=False)
            if leaner is not None:
                yield Suggestion(change=WITHOUT_TEXT_ENCODER, plan=leaner)
                bases.append((f"{WITHOUT_TEXT_ENCODER}, and ", Suggestions(leaner, registry=self._registry)))
        for kind in (Suggestions._codecs, Suggestions._budgets, Suggestions._batches, Suggestions._sizes):
            for before, base in bases:
                for words, changes in kind(base):
                    if (changed := _tried(base.plan, **changes)) is not None:
                        yield Suggestion(change=before + words, plan=changed)

    @property
    def _is_too_much_without_a_cache(self) -> bool:
        """Whether no smaller cache helps, since everything else alone exceeds the free memory."""
        need, memory = self.plan.need, self.plan.memory
        beside = sum(need.weights.values()) + max(need.activations, need.decoding)
        return memory is not None and beside > memory

    def _codecs(self) -> Iterator[Change]:
        for codec in [] if self._is_too_much_without_a_cache else _smaller_codecs(self.plan, self._registry):
            policy = self._registry.policy(self.plan.planned.policy, codec=codec)
            yield f"store what is kept with --codec {codec}", {"policy": policy}

    def _budgets(self) -> Iterator[Change]:
        if self.largest_budget is not None:
            yield f"keep less with --budget '{self.largest_budget}'", {"budget": self.largest_budget}

    def _batches(self) -> Iterator[Change]:
        if (images := self.largest_batch) is not None:
            yield f"generate {plural(images, 'image')} at once", {"batch": evolve(self.plan.batch, images=images)}

    def _sizes(self) -> Iterator[Change]:
        batch = self.plan.batch
        for size in reversed(batch.card.sizes):
            smaller = evolve(batch, size=size)
            if smaller.geometry.schedule.total < batch.geometry.schedule.total:
                yield f"generate smaller images with --size {size}", {"batch": smaller}


def _smaller_codecs(plan: MemoryPlan, registry: Registry) -> list[str]:
    """Codecs that store a token in fewer device bytes than the policy's: codecs on the host first, then the largest."""
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
    """The plan with these arguments changed; None if that cannot be planned."""
    try:
        return plan.replanned(**changes)
    except ScaleKVError:
        return None


Known = tuple[int, int | None]
"""A number, and the bytes that it needs; None if they cannot be planned."""


def _last(need: Callable[[int], int | None], most: int, low: Known, high: Known) -> int:
    """The largest number that needs at most ``most`` bytes, given that ``low`` does and ``high`` is excluded.

    Each plan takes a dry run. Bytes are nearly linear, so a few are enough; every third step halves what is left.
    """
    step = 0
    while high[0] - low[0] > 1:
        step += 1
        guess = _interpolated(low, high, most) if step % 3 else (low[0] + high[0]) // 2
        guess = min(max(guess, low[0] + 1), high[0] - 1)
        known = guess, need(guess)
        low, high = (low, known) if known[1] is None or known[1] > most else (known, high)
    return low[0]


def _interpolated(one: Known, other: Known, most: int) -> int:
    """The number that would need ``most`` bytes if bytes were linear; the middle where that is not known."""
    (low, less), (high, more) = one, other
    if less is None or more is None or more <= less:
        return (low + high) // 2
    return low + (most - less) * (high - low) // (more - less)
