"""A third party's plugin, written as its author would: one selector, found through its distribution's entry point."""

from __future__ import annotations

from collections.abc import Callable

import torch
from attrs import frozen
from torch import Tensor

import scalekv_core
from scalekv_core import CacheView, ScoringSelector, TokenSelector


@frozen
class Lottery(ScoringSelector):
    """Tokens drawn at random, anew at every scale.

    Attributes:
        seed: of the draw.
    """

    seed: int = 0

    def score(self, view: CacheView, keep: int) -> Tensor:
        generator = torch.Generator(view.k.device).manual_seed(self.seed + 1000 * view.scale + view.layer)
        return torch.rand(view.tokens, generator=generator, device=view.k.device).expand(view.k.shape[:3])


@scalekv_core.hookimpl
def scalekv_token_selectors() -> dict[str, Callable[[], TokenSelector]]:
    return {"lottery": Lottery}
