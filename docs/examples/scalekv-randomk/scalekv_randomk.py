"""The policy 'randomk': which tokens stay is decided by lot, until you write your own rule into ``score``."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from attrs import frozen
from scalekv_core import CacheView, Policy, ScoringSelector, TokenSelector, hookimpl
from scalekv_policies.uniform import EvenBudget
from torch import Tensor


@frozen(kw_only=True)
class RandomkSelector(ScoringSelector):
    """Tokens drawn by lot; every row, layer and head draws the same ones.

    Attributes:
        seed: of the draw.
    """

    seed: int = 0

    def score(self, view: CacheView, keep: int) -> Tensor:
        """(B, H, N) the higher, the more worth keeping: the place of each token, scrambled one to one."""
        lots = (view.positions.long() + self.seed) * 0x9E3779B1 & 0xFFFFFFFF
        return (lots >> 16 ^ lots) * 0x45D9F3B & 0xFFFFFFFF


def policy() -> Policy:
    """Tokens drawn by lot, the same number in every layer and head."""
    return Policy(name="randomk", allocator=EvenBudget(), selector=RandomkSelector())


@hookimpl
def scalekv_policies() -> Mapping[str, Callable[[], Policy]]:
    return {"randomk": policy}


@hookimpl
def scalekv_token_selectors() -> Mapping[str, Callable[[], TokenSelector]]:
    return {"randomk": RandomkSelector}
