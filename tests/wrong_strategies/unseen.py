"""Strategies that are right wherever one looks first: wrong in the ninth head, under quotas, at the first call, beside the codes."""

from __future__ import annotations

import warnings

import torch
from attrs import frozen

from scalekv_core import BudgetAllocator, CachePlan, Encoded, ScoringSelector, ops
from scalekv_core.testing.toy import Even, ToyAdapter
from tests.wrong_strategies.adapters import Source, Through
from tests.wrong_strategies.catalogue import fails
from tests.wrong_strategies.selectors import ByValue
from tests.wrong_strategies.storage import Int8, IntoNearest

SAID: set[str] = set()


@fails("decodes_within_its_bound")
@frozen
class EightHeads(Int8):
    """Has ranges for eight heads; all further ones take that of the eighth."""

    def step(self, x):
        return super().step(x)[:, torch.arange(x.shape[1]).clamp_max(7)].contiguous()


@fails("rows_permute")
@frozen
class FourRows(ByValue):
    """Has scores for four rows; all further ones take those of the fourth."""

    def score(self, view, keep):
        return super().score(view, keep)[torch.arange(view.k.shape[0]).clamp_max(3)]


@fails("kept_tokens_stay_themselves")
@frozen
class SixteenHeads(IntoNearest):
    """Works on sixteen heads and leaves out the others."""

    def assign(self, view, kept):
        target = super().assign(view, kept).clone()
        target[:, 16:] = 0
        return target


@fails("follows_attention")
@frozen
class UsualScale(ScoringSelector):
    """Attends with the usual softmax scale, whatever the model's is."""

    @property
    def claims(self):
        return frozenset({"follows_attention"})

    def score(self, view, keep):
        return ops.attention_mass(view.q, view.k, softmax_scale=view.k.shape[3] ** -0.5, counts=view.counts)


@fails("leaves_its_input_alone")
@frozen
class HalvesUnderQuotas(ByValue):
    """Writes to the values, where it is asked for quotas."""

    def select_by_source(self, view, keeps):
        view.v.mul_(0.5)
        return super().select_by_source(view, keeps)


@fails("memory_is_linear")
@frozen
class PairsUnderQuotas(ByValue):
    """Compares every token with every other, where it is asked for quotas."""

    def select_by_source(self, view, keeps):
        scores = self.score(view, 1) + (view.positions.unsqueeze(3) == view.positions.unsqueeze(2)).float().sum(dim=3)
        return torch.cat([ops.top_tokens(scores[:, :, i:j], keep) + i for i, j, keep in keeps if keep], dim=2)


@fails("is_quiet")
@frozen
class Banner(ByValue):
    """Prints its name, once."""

    def score(self, view, keep):
        if "banner" not in SAID:
            SAID.add("banner")
            print("the best selector")
        return super().score(view, keep)


@fails("is_quiet")
@frozen
class WarnsOnce(ByValue):
    """Warns that it is new, once."""

    def score(self, view, keep):
        if "warning" not in SAID:
            SAID.add("warning")
            warnings.warn("this selector is new", stacklevel=1)
        return super().score(view, keep)


@fails("is_quiet")
@frozen
class TellsOfManyTokens(ByValue):
    """Prints where there are more tokens than in any small case."""

    def score(self, view, keep):
        if view.tokens > 256:
            print(f"{view.tokens} tokens")
        return super().score(view, keep)


class CodesAndMore(Encoded):
    """Codes with more memory than they need."""


@fails("owns_its_memory")
@frozen
class KeepsTheOriginal(Int8):
    """Keeps the original in an attribute of the codes that is not listed among them."""

    def encode(self, x, kind, *, like=None):
        codes = super().encode(x, kind, like=like)
        more = CodesAndMore(codes.tokens, codes.ranges)
        object.__setattr__(more, "original", x.clone())
        return more


@fails("the_model_stores_nothing")
class KeepsBeside(ToyAdapter):
    """Keeps copies of all keys and values until the image is done, in a list that only its closure knows."""

    def attach(self, model, source):
        class Beside(Through):
            def __init__(self, cache):
                super().__init__(cache)
                self.own = []

            def attend(self, layer, q, k, v, *, softmax_scale):
                self.own.append((k.clone(), v.clone()))
                return super().attend(layer, q, k, v, softmax_scale=softmax_scale)

        return super().attach(model, Source(source, Beside))


@fails("roles_go_by_name")
@frozen
class FirstInTheAlphabet(BudgetAllocator):
    """Gives less to the role whose name comes first in the alphabet."""

    def allocate(self, geometry, roles, slots):
        plan = Even().allocate(geometry, roles, slots)
        fewer = plan.capacity - (roles.is_role(min(roles.names)) & (plan.capacity > 1))
        return CachePlan(geometry.schedule, fewer if plan.drops else plan.capacity)
