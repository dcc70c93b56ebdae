"""Wrong token selectors."""

from __future__ import annotations

import math
import time
from typing import Any, ClassVar

import numpy as np
import torch
from attrs import define, field, frozen
from torch import Tensor

from scalekv_core import CacheView, ScoringSelector, TokenSelector, ops
from tests.wrong_strategies.catalogue import fails


@frozen
class ByValue(ScoringSelector):
    """Right: tokens with the longest values. What is wrong below is wrong beside it."""

    def score(self, view: CacheView, keep: int) -> Tensor:
        return view.v.float().abs().sum(dim=-1)


@frozen
class ByPlace(ScoringSelector):
    """Right: the latest tokens."""

    def score(self, view: CacheView, keep: int) -> Tensor:
        return view.positions.float()


# -- the answer ---------------------------------------------------------------------------------------------------


@fails("fills_its_capacity")
@frozen
class OneTooMany(ByValue):
    """Keeps one token more than its capacity."""

    def select(self, view, keep):
        return super().select(view, keep + 1)


@fails("fills_its_capacity")
@frozen
class OneTooFew(ByValue):
    """Keeps one token less than its capacity, if that leaves any."""

    def select(self, view, keep):
        return super().select(view, max(1, keep - 1))


@fails("fills_its_capacity")
@frozen
class ShortIndices(ByValue):
    """Returns int32."""

    def select(self, view, keep):
        return super().select(view, keep).int()


@fails("fills_its_capacity")
@frozen
class AList(ByValue):
    """Returns a list of lists."""

    def select(self, view, keep):
        return super().select(view, keep).tolist()


@fails("fills_its_capacity")
@frozen
class OneHeadForAll(ByValue):
    """Returns one head's indices and lets them be broadcast."""

    def select(self, view, keep):
        return super().select(view, keep)[:, :1]


@fails("fills_its_capacity")
@frozen
class OwnCapacity(ByValue):
    """Ignores what it is asked to keep: eight tokens in every head, whatever the plan gives it."""

    def select(self, view, keep):
        return super().select(view, min(8, view.tokens))


@fails("fills_its_capacity")
@frozen
class CannotKeepOne(ByValue):
    """Divides by keep - 1."""

    def score(self, view, keep):
        return super().score(view, keep) / torch.tensor(1 // (keep - 1) + 1)


@fails("fills_its_capacity")
@frozen
class ThirteenMaps(ByValue):
    """Looks up the thirteenth map."""

    def score(self, view, keep):
        return super().score(view, keep) + view.schedule.tokens[12]


@fails("fills_its_capacity")
@frozen
class SquareMaps(ByValue):
    """Takes every map for a square."""

    def score(self, view, keep):
        side = math.isqrt(view.current)
        latest = super().score(view, keep)[:, :, view.history :].reshape(*view.k.shape[:2], side, side)
        return torch.cat([super().score(view, keep)[:, :, : view.history], latest.flatten(2)], dim=2)


@fails("fills_its_capacity")
@frozen
class Endless(ByValue):
    """Does not come back from a map of more than one row."""

    def select(self, view, keep):
        while view.map[1] > 1:
            time.sleep(0.01)
        return super().select(view, keep)


@fails("indices_are_unique")
@frozen
class Twice(ByValue):
    """Keeps its first token twice."""

    def select(self, view, keep):
        kept = super().select(view, keep)
        return torch.cat([kept[..., :1], kept[..., :-1]], dim=-1)


@fails("indices_ascend")
@frozen
class BestFirst(ByValue):
    """Returns the best token first instead of the earliest."""

    def select(self, view, keep):
        return self.score(view, keep).topk(keep, dim=-1).indices


@fails("indices_are_in_range")
@frozen
class PastTheEnd(ByValue):
    """Counts tokens from 1."""

    def select(self, view, keep):
        return super().select(view, keep) + 1


@fails("indices_are_in_range")
@frozen
class FromTheEnd(ByValue):
    """Counts the latest tokens from the end, below zero."""

    def select(self, view, keep):
        return ops.all_tokens(view.k, -keep, 0)


@fails("indices_are_in_range")
@frozen
class Positions(ByPlace):
    """Returns positions in the sequence, which are indices only as long as nothing was dropped."""

    def select(self, view, keep):
        return view.positions.long()[:, :, -keep:]


@fails("follows_quotas")
@frozen
class NoQuotas(ByValue):
    """Keeps the right number of tokens, of whatever maps."""

    def select_by_source(self, view, keeps):
        return self.select(view, sum(keep for _, _, keep in keeps))


@fails("works_at_its_least")
@frozen
class NothingIsEnough(ByValue):
    """Says that it can work with a capacity of 0."""

    def least(self, schedule, scale):
        return 0


@fails("works_at_its_least")
@frozen
class NeedsMore(ByValue):
    """Says that a window of 2 is enough, and always keeps 3."""

    def least(self, schedule, scale):
        return 2

    def select(self, view, keep):
        return super().select(view, min(view.tokens, max(3, keep)))


# -- statistics and scores ----------------------------------------------------------------------------------------


@fails("statistics_are_as_named")
@frozen
class Misnamed(ByValue):
    """Names one statistic and returns another."""

    statistics: ClassVar[tuple[str, ...]] = ("mass",)

    def observe(self, view):
        return {"weight": view.statistics["mass"]}


@fails("statistics_are_as_named")
@frozen
class NarrowStatistic(ByValue):
    """Keeps its statistic in the dtype of the keys, where the plan has paid for float32."""

    statistics: ClassVar[tuple[str, ...]] = ("length",)

    def observe(self, view):
        return {"length": view.k.norm(dim=-1)}


@fails("statistics_are_as_named")
@frozen
class SharedStatistic(ByValue):
    """One statistic for all heads."""

    statistics: ClassVar[tuple[str, ...]] = ("length",)

    def observe(self, view):
        return {"length": view.k.float().norm(dim=-1).mean(dim=1)}


@fails("scores_are_numbers")
@frozen
class DividesByNothing(ByValue):
    """Normalises values that may be zero."""

    def score(self, view, keep):
        lengths = view.v.float().norm(dim=-1)
        return lengths / lengths.amax(dim=-1, keepdim=True)


# -- rows, heads, memory, chance ----------------------------------------------------------------------------------


@fails("rows_are_apart")
@frozen
class OtherRows(ByValue):
    """Scores are averaged over the batch."""

    def score(self, view, keep):
        return super().score(view, keep).mean(dim=0, keepdim=True).expand(*view.k.shape[:3])


@fails("rows_permute")
@frozen
class FirstRow(ByValue):
    """The first row decides for all."""

    def score(self, view, keep):
        return super().score(view, keep)[:1].expand(*view.k.shape[:3])


@fails("rows_permute")
@frozen
class NextRow(ByValue):
    """Every row gets the scores of the row before it."""

    def score(self, view, keep):
        return super().score(view, keep).roll(1, dims=0)


@fails("heads_are_apart")
@frozen
class HeadsTogether(ByValue):
    """Heads that are stored together vote together."""

    def score(self, view, keep):
        return super().score(view, keep).sum(dim=1, keepdim=True).expand(*view.k.shape[:3])


@fails("remembers_nothing")
@frozen
class FirstImage(ByPlace):
    """Chooses for all images as it did for the first one."""

    _first: dict[str, int] = field(factory=dict, repr=False, eq=False, init=False)

    def score(self, view, keep):
        rows = self._first.setdefault("rows", view.k.shape[0])
        return view.positions.float() * (1 if rows == view.k.shape[0] else -1)

    def select(self, view, keep):
        direction = self._first.setdefault("scale", view.scale)
        scores = view.positions if direction == view.scale else -view.positions
        self._first["scale"] = view.scale + 1
        return ops.top_tokens(scores, keep)


@fails("remembers_nothing")
@frozen
class FirstBatch(TokenSelector):
    """Makes an index of the batch at the first call and uses it for all others."""

    _made: dict[str, Tensor] = field(factory=dict, repr=False, eq=False, init=False)

    def select(self, view, keep):
        first = self._made.setdefault(str(view.k.device), ops.all_tokens(view.k, 0, 1))
        return first.expand(*view.k.shape[:2], 1) + torch.arange(keep, device=view.k.device)


_CALLS = [0]


@fails("repeats_itself")
@frozen
class EveryCall(ByPlace):
    """Shuffles tokens another way at every call."""

    def score(self, view, keep):
        _CALLS[0] += 1
        return (view.positions * (3 + _CALLS[0] % 5) % 11).float()


@fails("ignores_global_randomness")
@frozen
class GlobalDice(ScoringSelector):
    """Chooses tokens with torch's global generator."""

    def score(self, view, keep):
        return torch.rand(view.positions.shape, device=view.k.device)


@fails("ignores_global_randomness")
@frozen
class SeedsTheWorld(ByPlace):
    """Seeds numpy's global generator, to be reproducible."""

    def score(self, view, keep):
        np.random.seed(0)
        return view.positions + float(np.random.rand())


# -- what it may not touch ----------------------------------------------------------------------------------------


@fails("leaves_its_input_alone")
@frozen
class HalvesQueries(ByValue):
    """Halves the queries where they are."""

    def score(self, view, keep):
        view.q.mul_(0.5)
        return super().score(view, keep)


@fails("leaves_its_input_alone")
@frozen
class NormalisesInPlace(ByValue):
    """Normalises the keys where they are."""

    def score(self, view, keep):
        view.k.div_(view.k.abs().amax(dim=-1, keepdim=True) + 1)
        return super().score(view, keep)


@fails("leaves_its_input_alone")
@frozen
class ScalesTheMass(ByValue):
    """Scales the attention mass in place, which a merger that asks for it would get."""

    def score(self, view, keep):
        return view.attention_mass().div_(view.current)


@fails("leaves_its_input_alone")
@frozen
class CountsInPlace(ByValue):
    """Adds to its statistic in place."""

    statistics: ClassVar[tuple[str, ...]] = ("age",)

    def observe(self, view):
        return {"age": view.statistics["age"].add_(1)}


@fails("stays_on_the_device")
@frozen
class AsksTheTensor(ByPlace):
    """Looks at a number to decide."""

    def score(self, view, keep):
        sign = 1 if view.v.sum().item() > 0 else -1
        return view.positions * sign


@fails("stays_on_the_device")
@frozen
class OnTheHost(TokenSelector):
    """Makes its indices on the host."""

    def select(self, view, keep):
        return torch.arange(view.tokens - keep, view.tokens).expand(*view.k.shape[:2], -1)


@fails("is_a_value")
@define
class CanBeWrittenTo(ScoringSelector):
    """Is not frozen."""

    window: int = 4

    def score(self, view, keep):
        return view.positions.float()


@fails("is_a_value")
@frozen
class HoldsATensor(ByPlace):
    """Has a tensor as its option."""

    weights: Tensor = field(factory=lambda: torch.ones(4), eq=False)


@fails("is_a_value")
@frozen
class HoldsAList(ByPlace):
    """Has a list as its option, so that it cannot be hashed."""

    layers: list[int] = field(factory=list)


# -- claims -------------------------------------------------------------------------------------------------------


class Claims(ByValue):
    """A selector that claims more than it keeps to."""

    claimed: ClassVar[str]

    @property
    def claims(self):
        return frozenset({self.claimed})


@fails("claims_are_known")
@frozen
class ClaimsAnything(Claims):
    """Claims what cannot be checked."""

    claimed = "is_the_best"


@fails("larger_budgets_keep_more")
@frozen
class TurnsAround(ByPlace):
    """Keeps the latest of an even number of tokens and the earliest of an odd one."""

    def score(self, view, keep):
        return view.positions.float() * (-1) ** keep


@fails("heads_are_alike")
@frozen
class KnowsItsHeads(Claims):
    """Claims that heads are alike, and treats the first one differently."""

    claimed = "heads_are_alike"

    def score(self, view, keep):
        first = torch.tensor([head == 0 for head in view.heads], device=view.k.device).view(1, -1, 1)
        return torch.where(first, view.positions.float(), super().score(view, keep))


@fails("layers_are_alike")
@frozen
class KnowsItsLayer(Claims):
    """Claims that layers are alike, and turns around from layer to layer."""

    claimed = "layers_are_alike"

    def score(self, view, keep):
        return view.positions.float() * (-1) ** view.layer


@fails("length_of_keys_is_ignored")
@frozen
class FeelsLength(Claims):
    """Claims that the length of keys does not matter, and adds it to something else."""

    claimed = "length_of_keys_is_ignored"

    def score(self, view, keep):
        return view.k.float().sum(dim=-1) + view.positions / 2


@fails("contents_are_ignored")
@frozen
class LooksAtValues(Claims):
    """Claims to look at positions only."""

    claimed = "contents_are_ignored"


@fails("older_maps_are_ignored")
@frozen
class FromTheBeginning(Claims):
    """Claims that maps which are gone do not matter, and keeps positions modulo the first maps."""

    claimed = "older_maps_are_ignored"

    def score(self, view, keep):
        return view.positions.float() % 4


@fails("follows_attention")
@frozen
class ForgetsTheLastRow(ScoringSelector):
    """Goes over w x w tokens of an h x w map: what lies below the square is never chosen."""

    claims: ClassVar[Any] = frozenset({"follows_attention"})

    def score(self, view, keep):
        _, h, w = view.map
        scores = view.attention_mass()
        if h > w:
            scores[:, :, view.history + w * w :] = -1
        return scores


@fails("follows_attention")
@frozen
class ForgetsTheCurrentMap(ScoringSelector):
    """Never keeps anything of the map that was just generated, as long as there is something else."""

    claims: ClassVar[Any] = frozenset({"follows_attention"})

    def score(self, view, keep):
        scores = view.attention_mass()
        scores[:, :, view.history :] -= 1e6
        return scores
