"""Attaching to the Infinity of this room: its seam for a cache is an attribute of the instance."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from torch import nn

from scalekv_adapters.infinity.transformer import Infinity
from scalekv_adapters.instances import replace_attributes
from scalekv_core.contracts.adapter import CacheSource, ModelAdapter
from scalekv_core.shapes.geometry import CacheGeometry


class InfinityAdapter(ModelAdapter):
    """Infinity as loaded by scalekv: swaps the instance's ``new_cache``."""

    def matches(self, model: nn.Module) -> bool:
        return isinstance(model, Infinity)

    def geometry(self, model: nn.Module) -> CacheGeometry:
        """The shape of the model's cache: the schedule of its canvas, one row, the dtype of its attention."""
        infinity = cast(Infinity, model)
        return infinity.config.geometry(infinity.canvas, infinity.dtype)

    def attach(self, model: nn.Module, source: CacheSource) -> Callable[[], None]:
        return replace_attributes(model, new_cache=source.new_cache)
