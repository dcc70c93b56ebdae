"""A third party's plugin, as its author would write it: a selector, a policy and a metric, with an entry point."""

from __future__ import annotations

from collections.abc import Callable

import torch
from attrs import frozen
from torch import Tensor

import scalekv_core
from scalekv_core import CacheView, Policy, ScoringSelector, TokenSelector
from scalekv_core.models.metric import Metric, Pair, PairMetric
from scalekv_policies.uniform import EvenBudget


@frozen
class Lottery(ScoringSelector):
    """Random tokens, chosen anew at every scale.

    Attributes:
        seed: of the random choice.
    """

    seed: int = 0

    def score(self, view: CacheView, keep: int) -> Tensor:
        generator = torch.Generator(view.k.device).manual_seed(self.seed + 1000 * view.scale + view.layer)
        return torch.rand(view.tokens, generator=generator, device=view.k.device).expand(view.k.shape[:3])


@frozen
class Brightness(PairMetric):
    """Mean of the compressed image."""

    def measure(self, pair: Pair) -> Tensor:
        return pair.compressed.images.flatten(1).mean(dim=1)


@scalekv_core.hookimpl
def scalekv_policies() -> dict[str, Callable[[], Policy]]:
    return {"lottery": lambda: Policy(name="lottery", allocator=EvenBudget(), selector=Lottery())}


@scalekv_core.hookimpl
def scalekv_metrics() -> dict[str, Callable[[], Metric]]:
    return {"brightness": Brightness}


@scalekv_core.hookimpl
def scalekv_token_selectors() -> dict[str, Callable[[], TokenSelector]]:
    return {"lottery": Lottery}
