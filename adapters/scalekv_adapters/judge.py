"""The metric ``judge``: whether an image of a small model shows what its prompt says, as that model's own judge sees it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import torch
from attrs import frozen
from torch import Tensor

from scalekv_adapters.infinity.tiny import judge as captions
from scalekv_adapters.var.tiny import judge as digits
from scalekv_core.models.metric import Pair, PairMetric

JUDGES: Mapping[str, Callable[[Tensor, Sequence[str]], list[bool]]] = {
    "infinity-tiny": captions.shows,
    "var-tiny": digits.shows,
}
"""Images (N, 3, H, W) in [0, 1] and their prompts -> whether each is right."""


@frozen
class Judge(PairMetric):
    """1 where the compressed image shows what its prompt says, else 0: digits by a classifier, captions by rules."""

    models: ClassVar[tuple[str, ...]] = tuple(JUDGES)

    def measure(self, pair: Pair) -> Tensor:
        return torch.tensor(JUDGES[pair.model](pair.compressed.images, pair.prompts), dtype=torch.float64)
