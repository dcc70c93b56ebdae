"""The policy 'randomk': keeps pseudo-random tokens, until you write your own rule into ``score``."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from attrs import frozen
from scalekv_core import CacheView, Policy, ScoringSelector, TokenSelector, hookimpl
from scalekv_policies.uniform import EvenBudget
from torch import Tensor


@frozen(kw_only=True)
class RandomkSelector(ScoringSelector):
    """Keeps pseudo-random tokens, the same in every row, layer and head.

    Attributes:
        seed: selects which tokens.
    """

    seed: int = 0

    def score(self, view: CacheView, keep: int) -> Tensor:
        """(B, H, N) scores, the highest are kept: a one-to-one hash of each position."""
        mixed = (view.positions.long() + self.seed) * 0x9E3779B1 & 0xFFFFFFFF
        return (mixed >> 16 ^ mixed) * 0x45D9F3B & 0xFFFFFFFF


def policy() -> Policy:
    """Pseudo-random tokens, the same number in every layer and head."""
    return Policy(name="randomk", allocator=EvenBudget(), selector=RandomkSelector())


@hookimpl
def scalekv_policies() -> Mapping[str, Callable[[], Policy]]:
    return {"randomk": policy}


@hookimpl
def scalekv_token_selectors() -> Mapping[str, Callable[[], TokenSelector]]:
    return {"randomk": RandomkSelector}
