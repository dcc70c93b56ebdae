"""The toy's adapter: how a session's caches get into the model, and out again."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from torch import nn

from scalekv_core.contracts.adapter import CacheSource, ModelAdapter
from scalekv_core.shapes.geometry import CacheGeometry
from scalekv_core.testing.toy.transformer import ToyModel


class ToyAdapter(ModelAdapter):
    """Swaps the instance's ``new_cache`` and puts the old one back."""

    def matches(self, model: nn.Module) -> bool:
        return isinstance(model, ToyModel)

    def geometry(self, model: nn.Module) -> CacheGeometry:
        toy = cast(ToyModel, model)
        width = toy.prompts.embedding_dim
        return CacheGeometry(
            schedule=toy.schedule,
            layers=len(toy.blocks),
            heads=toy.heads,
            group=toy.group,
            head_dim=width // (toy.heads * toy.group),
            dtype=toy.prompts.weight.dtype,
        )

    def attach(self, model: nn.Module, source: CacheSource) -> Callable[[], None]:
        toy = cast(ToyModel, model)
        before = toy.new_cache
        toy.new_cache = source.new_cache

        def detach() -> None:
            toy.new_cache = before

        return detach
