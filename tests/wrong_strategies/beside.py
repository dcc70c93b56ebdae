"""Strategies with right answers and bad side effects: they print, hoard, remember, are slow, or depend on names.

One class holds the fault; it is put into the method that every strategy of a kind has.
"""

from __future__ import annotations

import time
from typing import ClassVar

import numpy as np
import torch
from attrs import evolve, frozen

from scalekv_core import CachePlan, LayerClassifier, LayerRoles, Policy
from scalekv_core.testing.toy import Even, Latest, ToyAdapter, ToyCard, ToyImageModel
from tests.wrong_strategies.catalogue import WRONG, Wrong, fails
from tests.wrong_strategies.selectors import ByPlace, ByValue
from tests.wrong_strategies.storage import ChannelRanges, IntoNearest

# -- faults: what is done with what a method was given, and which check notices -----------------------------------------

HOARD: list[object] = []
CALLS = [0]
LAST: dict[str, float] = {}


def prints(*given: object) -> None:
    """Prints a line at every call."""
    print("scale done")


def hoards(*given: object) -> None:
    """Keeps whatever it is given, in a list of its module."""
    HOARD.append(given)


def counts(*given: object) -> None:
    """Counts its calls in its module."""
    CALLS[0] += 1


def dawdles(*given: object) -> None:
    """Computes for more than a second before it answers."""
    end = time.thread_time() + 1.1
    while time.thread_time() < end:
        sum(range(1000))


FAULTS = {"is_quiet": prints, "is_quick": dawdles, "keeps_nothing": counts, "nothing_is_hoarded": hoards}


@frozen
class Selector(ByValue):
    """Right: tokens with long values."""


@frozen
class Merger(IntoNearest):
    """Right: into the nearest."""


@frozen(kw_only=True)
class Codec(ChannelRanges):
    """Right: eight bits."""


@frozen
class Allocator(Even):
    """Right: the same everywhere."""


@frozen
class Classifier(LayerClassifier):
    """Right: drafters are layers whose attention is spread more than in most."""

    needs_profile: ClassVar[bool] = True

    def classify(self, profile, geometry):
        share = profile.top_share_at(0.1)
        return LayerRoles(("drafter", "refiner"), (share > np.median(share)).astype(np.int8), share)


def before(base: type, method: str, fault, doc: str) -> type:
    """The class, whose method does something else first."""

    def spoilt(self, *given, **named):
        fault(self, *given)
        return getattr(base, method)(self, *given, **named)

    name = f"{base.__name__}That{fault.__name__.title()}"
    made = type(name, (base,), {"__doc__": doc, "__module__": __name__, method: spoilt})
    return frozen(slots=False)(made)


METHODS = {Selector: "score", Merger: "assign", Codec: "encode", Allocator: "allocate", Classifier: "classify"}
for _base, _method in METHODS.items():
    for _check, _fault in FAULTS.items():
        if _check in ("nothing_is_hoarded", "is_quick") and _base in (Allocator, Classifier):
            continue
        if _check == "nothing_is_hoarded" and _base is Codec:
            _check = "keeps_nothing"
        _made = before(_base, _method, _fault, _fault.__doc__)
        globals()[_made.__name__] = _made
        WRONG.append(Wrong(_made.__name__, _made, _check))


@fails("is_quick")
@frozen
class SearchesForAPlan(Even):
    """Tries budgets for two seconds."""

    def allocate(self, geometry, roles, slots):
        dawdles()
        return super().allocate(geometry, roles, slots)


# -- another process, hashes of texts -------------------------------------------------------------------------------------


def salt() -> int:
    """Another number in every process."""
    return hash("salt") % 1009


@fails("another_process_agrees")
@frozen
class SaltedScores(ByPlace):
    """Adds the hash of a text to positions, modulo a prime."""

    def score(self, view, keep):
        return ((view.positions.long() + salt()) * 7919 % 10007).float()


@fails("another_process_agrees")
@frozen
class SaltedTargets(IntoNearest):
    """Folds into the nearest or its neighbour, as the hash of a text has it."""

    def assign(self, view, kept):
        target = super().assign(view, kept)
        other = (target + salt() % 5 + 1) % kept.shape[2]
        own = torch.zeros_like(target, dtype=torch.bool).scatter_(2, kept, True)
        return torch.where(own, target, other)


@fails("another_process_agrees")
@frozen(kw_only=True)
class SaltedCodes(ChannelRanges):
    """Dithers by the hash of a text before it rounds."""

    def encode(self, x, kind, *, like=None):
        return super().encode(x * (1 + salt() * 2.0**-18), kind, like=like)


@fails("another_process_agrees")
@frozen
class SaltedShares(Even):
    """Takes tokens from the layer that a set of texts has first."""

    def allocate(self, geometry, roles, slots):
        plan = super().allocate(geometry, roles, slots)
        capacity = plan.capacity.copy()
        if plan.drops:
            layer = salt() % geometry.layers
            capacity[:, layer] = np.maximum(capacity[:, layer] - 1, 0)
        return CachePlan(geometry.schedule, capacity)


@fails("another_process_agrees")
@frozen
class SaltedRoles(Classifier):
    """Begins to count layers at the hash of a text."""

    def classify(self, profile, geometry):
        roles = super().classify(profile, geometry)
        return LayerRoles(roles.names, np.roll(roles.labels, salt(), axis=1))


@fails("another_process_agrees")
def salted() -> Policy:
    """Its selector adds the hash of a text."""
    return policy(SaltedScores())


def policy(selector, **parts) -> Policy:
    """A policy that is right in everything else."""
    return Policy(**{"name": "wrong", "allocator": Even(), "selector": selector, **parts})


# -- whole policies -------------------------------------------------------------------------------------------------------


@fails("is_quiet")
def prints_too() -> Policy:
    """Its selector prints."""
    return policy(globals()["SelectorThatPrints"]())


@fails("keeps_nothing")
def counts_too() -> Policy:
    """Its selector counts."""
    return policy(globals()["SelectorThatCounts"]())


@fails("nothing_is_hoarded")
def hoards_too() -> Policy:
    """Its selector hoards views."""
    return policy(globals()["SelectorThatHoards"]())


@fails("nothing_is_hoarded")
@frozen
class CodecThatHoardsCopies(Codec):
    """Keeps some copies of what it encoded."""

    copies: ClassVar[list[torch.Tensor]] = []

    def encode(self, x, kind, *, like=None):
        if like is None and len(self.copies) > 20:
            self.copies.clear()
        self.copies.append(x.clone())
        return super().encode(x, kind, like=like)


@fails("nothing_is_hoarded")
def hoards_copies_too() -> Policy:
    """Its codec keeps copies of what it encoded."""
    return policy(Latest(), codec=CodecThatHoardsCopies())


@fails("usual_budgets_are_accepted")
def misspelt_budget() -> Policy:
    """Its own budget is not understood."""
    return policy(Latest(), budget="a tenth")


@frozen
class AsksForSketchers(Even):
    """Gives sketchers more; no classifier knows any."""

    def allocate(self, geometry, roles, slots):
        assert roles.is_role("sketcher").shape
        return super().allocate(geometry, roles, slots)


@fails("roles_are_read")
def nobodys_role() -> Policy:
    """Its allocator asks for a role that its classifier spells otherwise."""
    return policy(Latest(), classifier=Classifier(), allocator=AsksForSketchers())


# -- two images at a time -----------------------------------------------------------------------------------------------------


@frozen
class OneImageAtATime(ByPlace):
    """Counts in its class the layers since the first map, so that another image disturbs it."""

    seen: ClassVar[list[int]] = [0]

    def score(self, view, keep):
        if view.scale == 0 and view.layer == 0:
            self.seen[0] = 0
        self.seen[0] += 1
        positions = super().score(view, keep)
        return positions if self.seen[0] % 2 else -positions


WRONG.append(Wrong("OneImageAtATime", OneImageAtATime, "images_do_not_mix"))


@fails("images_do_not_mix")
def one_image_at_a_time() -> Policy:
    """Its selector counts layers in its class."""
    return policy(OneImageAtATime())


@fails("images_do_not_mix")
@frozen
class FoldsByTurns(IntoNearest):
    """Folds into the nearest or into the first, by turns that it counts in its class."""

    turns: ClassVar[list[int]] = [0]

    def weights(self, view):
        if view.scale == 0 and view.layer == 0:
            self.turns[0] = 0
        self.turns[0] += 1
        return torch.full_like(view.positions, 1.0, dtype=torch.float32) + view.positions * (self.turns[0] % 2)


@fails("images_do_not_mix")
@frozen(kw_only=True)
class RangesOfTheLastMap(ChannelRanges):
    """Rounds to a grid that becomes coarser with the tokens encoded so far, which it counts in its class."""

    rows: ClassVar[list[int]] = [0]

    def encode(self, x, kind, *, like=None):
        coarse = self.rows[0] not in (0, len(x))
        self.rows[0] = len(x)
        return super().encode(x.round() if coarse else x, kind, like=like)


# -- memory, sizes, options --------------------------------------------------------------------------------------------------


@fails("memory_is_linear")
@frozen
class EveryPair(ByValue):
    """Compares every cached key with every other at once."""

    def score(self, view, keep):
        k = view.k.float()
        return -(k @ k.transpose(2, 3)).amax(dim=3)


@fails("memory_is_linear")
@frozen
class EveryPairOfPositions(IntoNearest):
    """Searches all tokens for the nearest before it looks at which ones are kept."""

    def assign(self, view, kept):
        apart = (view.positions.unsqueeze(3) - view.positions.unsqueeze(2)).abs()
        return apart.gather(3, kept.unsqueeze(2).expand(*view.positions.shape, -1)).argmin(dim=3)


@fails("works_at_a_tenth")
@frozen
class NeedsTheWholeMap(ByValue):
    """Cannot keep fewer tokens than the map has."""

    def least(self, schedule, scale):
        return schedule.tokens[scale]


@fails("options_work")
@frozen
class ForFourOnly(ByValue):
    """Its option works as long as it is 4."""

    width: int = 4

    def score(self, view, keep):
        return super().score(view, keep)[:, :, : view.tokens - (self.width - 4)]


@fails("options_work")
@frozen
class StepsOfOne(IntoNearest):
    """Its option moves targets past the last kept token."""

    step: int = 0

    def assign(self, view, kept):
        return super().assign(view, kept) + self.step * kept.shape[2]


@fails("options_work")
@frozen(kw_only=True)
class PaddedCodes(ChannelRanges):
    """Its option adds bytes that it does not count."""

    padding: int = 0

    def nbytes(self, kind, **shape):
        return super().nbytes(kind, **shape) - self.padding


@fails("options_work")
@frozen
class MoreForAll(Even):
    """Its option multiplies the budget."""

    times: int = 1

    def allocate(self, geometry, roles, slots):
        return super().allocate(geometry, roles, slots * self.times)


@fails("options_work")
@frozen
class OneRoleTooFew(Classifier):
    """Its option removes layers."""

    skip: int = 0

    def classify(self, profile, geometry):
        roles = super().classify(profile, geometry)
        return LayerRoles(roles.names, roles.labels[:, self.skip :])


@fails("folded_values_lie_between")
@frozen
class SumsOverflow(IntoNearest):
    """Weights near the largest number: their sum is infinite, and the mean nothing."""

    def weights(self, view):
        return torch.full_like(view.positions, 3e38, dtype=torch.float32)


@fails("bound_says_something")
@frozen(kw_only=True)
class AnyBound(ChannelRanges):
    """Says that it may be off by the whole range."""

    def error_bound(self, stored, kind):
        return 300 * super().error_bound(stored, kind) + 10


@fails("decoded_resembles_the_original")
@frozen(kw_only=True)
class OtherWayRound(AnyBound):
    """Decodes the channels in reverse."""

    def decode(self, stored, kind, out):
        super().decode(stored, kind, out)
        out.copy_(out.flip(3).clone())


@fails("remembers_nothing")
@frozen(kw_only=True)
class RoundsAfterTheFirst(ChannelRanges):
    """Rounds what comes after the first map of all, which it notes in its class."""

    first: ClassVar[list[bool]] = [True]

    def encode(self, x, kind, *, like=None):
        first, self.first[0] = self.first[0], False
        return super().encode(x if first else x * 0.5, kind, like=like)


# -- names, numbers, fractions ----------------------------------------------------------------------------------------------------


@fails("usual_budgets_are_accepted")
@frozen
class RoundBudgets(Even):
    """Refuses what is not a whole number of tokens for each head."""

    def allocate(self, geometry, roles, slots):
        from scalekv_core import BudgetError

        if slots % geometry.slots_per_token:
            raise BudgetError("no round number")
        return super().allocate(geometry, roles, slots)


@fails("roles_go_by_name")
@frozen
class ByNumber(Even):
    """Takes a token from the layers that play the first role."""

    def allocate(self, geometry, roles, slots):
        plan = super().allocate(geometry, roles, slots)
        first = np.roll(roles.labels == 0, -1, axis=0)
        return CachePlan(geometry.schedule, np.maximum(plan.capacity - (first & plan.drops), 0))


@fails("fractions_go_by_value")
@frozen
class ThirdFraction(Classifier):
    """Takes the third fraction, whichever that is."""

    def classify(self, profile, geometry):
        share = profile.top_share[..., 2]
        return LayerRoles(("drafter", "refiner"), (share > np.median(share)).astype(np.int8))


@fails("names_of_models_do_not_matter")
@frozen
class KnowsInfinity(Classifier):
    """Turns roles around for models with infinity in their name."""

    def classify(self, profile, geometry):
        roles = super().classify(profile, geometry)
        return LayerRoles(roles.names[::-1] if "infinity" in profile.model else roles.names, roles.labels)


@fails("names_are_distinct")
@frozen
class TwoOfOneName(Classifier):
    """Calls both roles by one name."""

    def classify(self, profile, geometry):
        return LayerRoles(("layer", "layer"), super().classify(profile, geometry).labels)


# -- adapters -------------------------------------------------------------------------------------------------------------------


class Between:
    """A source whose caches are made and closed by way of an adapter's own methods."""

    def __init__(self, source, cache):
        self.source, self.cache = source, cache

    def new_cache(self, schedule):
        return self.cache(self.source.new_cache(schedule))


@fails("closes_after_a_failure")
class ClosesWhatIsDone(ToyAdapter):
    """Closes only caches whose image came to its end."""

    class Cache:
        def __init__(self, inner):
            self.inner, self.calls = inner, 0

        def attend(self, layer, q, k, v, *, softmax_scale):
            out = self.inner.attend(layer, q, k, v, softmax_scale=softmax_scale)
            self.calls += 1
            return out

        def close(self):
            if self.calls == 12:
                self.inner.close()

    def attach(self, model, source):
        return super().attach(model, Between(source, self.Cache))


@fails("fails_cleanly_anywhere")
class ClosesInAttention(ToyAdapter):
    """Closes its cache at the last call of attention, or where attention fails: what fails elsewhere leaves it open."""

    class Cache(ClosesWhatIsDone.Cache):
        def attend(self, layer, q, k, v, *, softmax_scale):
            try:
                out = super().attend(layer, q, k, v, softmax_scale=softmax_scale)
            except BaseException:
                self.inner.close()
                raise
            if self.calls == 12:
                self.inner.close()
            return out

        def close(self):
            pass

    def attach(self, model, source):
        return super().attach(model, Between(source, self.Cache))


@fails("works_in_other_dtypes")
class SinglePrecision(ToyAdapter):
    """Says float32 whatever the model is in."""

    def geometry(self, model):
        return evolve(super().geometry(model), dtype=torch.float32)


@fails("the_model_stores_nothing")
class StoresToo(ToyAdapter):
    """Lets the model keep the keys and values that it hands to the cache."""

    def attach(self, model, source):
        kept = []

        class Cache(ClosesWhatIsDone.Cache):
            def attend(self, layer, q, k, v, *, softmax_scale):
                kept.append((k.clone(), v.clone()))
                return self.inner.attend(layer, q, k, v, softmax_scale=softmax_scale)

            def close(self):
                kept.clear()
                self.inner.close()

        model.kept = kept
        detach = super().attach(model, Between(source, Cache))

        def both():
            detach()
            del model.kept

        return both


@fails("restores_modes")
class Evaluates(ToyAdapter):
    """Puts the model into eval mode."""

    def attach(self, model, source):
        model.eval()
        return super().attach(model, source)


@fails("is_attached_all_or_nothing")
class MarksTheWeights(ToyAdapter):
    """Freezes weights one by one, and thaws them when it is detached."""

    def attach(self, model, source):
        weights = list(model.parameters())
        for weight in weights:
            weight.requires_grad_(False)
        detach = super().attach(model, source)

        def both():
            for weight in weights:
                weight.requires_grad_(True)
            detach()

        return both


@fails("serves_two_models")
class TheLastOne(ToyAdapter):
    """Remembers one source, that of the model that was attached last."""

    def attach(self, model, source):
        self.source = source

        class Latest:
            def new_cache(inner, schedule):
                return self.source.new_cache(schedule)

        return super().attach(model, Latest())


@fails("lets_go")
class NeverLetsGo(ToyAdapter):
    """Keeps every model that it was attached to."""

    def __init__(self):
        self.models = []

    def attach(self, model, source):
        self.models.append(model)
        return super().attach(model, source)


@fails("is_quiet")
class PrintsWhenAttached(ToyAdapter):
    """Prints when it is attached."""

    def attach(self, model, source):
        print("attached")
        return super().attach(model, source)


# -- models ---------------------------------------------------------------------------------------------------------------------


@fails("loads_anew")
@frozen(kw_only=True)
class LoadsOnce(ToyCard):
    """Loads once and gives the same module to everybody."""

    loaded: ClassVar[list[object]] = []

    def load(self, **how):
        if not self.loaded:
            self.loaded.append(super().load(**how))
        return self.loaded[0]


@fails("loads_in_other_dtypes")
@frozen(kw_only=True)
class AlwaysSingle(ToyCard):
    """Loads in float32 whatever was asked."""

    def load(self, **how):
        return super().load(**how | {"dtype": torch.float32})


class Seeded(ToyImageModel):
    """Adds its seeds to its tokens even if it is greedy."""

    def generate(self, prompts, *, seeds, **others):
        made = super().generate(prompts, seeds=seeds, **others)
        shift = torch.tensor(list(seeds)).unsqueeze(1)
        return evolve(made, tokens=tuple((x + shift) % 16 for x in made.tokens))


@fails("sampling_is_followed")
@frozen(kw_only=True)
class SeedsAlways(ToyCard):
    """Its seeds play a part in greedy sampling."""

    def load(self, **how):
        return Seeded(super().load(**how).module)


class Storing(ToyImageModel):
    """Stores every image in its module."""

    def generate(self, prompts, **others):
        made = super().generate(prompts, **others)
        self.module.made = [*getattr(self.module, "made", []), made.images.clone()]
        return made


@fails("keeps_nothing")
@frozen(kw_only=True)
class StoresImages(ToyCard):
    """Its model stores every image."""

    def load(self, **how):
        return Storing(super().load(**how).module)


@fails("is_quiet")
@frozen(kw_only=True)
class SetsThePrecision(ToyCard):
    """Sets torch's matmul precision when it loads."""

    def load(self, **how):
        torch.set_float32_matmul_precision("medium")
        return super().load(**how)
