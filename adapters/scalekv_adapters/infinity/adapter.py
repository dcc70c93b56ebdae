"""Attaching to the Infinity that is written here."""

from __future__ import annotations

from typing import cast

from torch import nn

from scalekv_adapters.infinity.generation import Infinity
from scalekv_adapters.new_cache import NewCacheAdapter
from scalekv_core.shapes.geometry import CacheGeometry


class InfinityAdapter(NewCacheAdapter):
    """Infinity as loaded by scalekv: swaps the instance's ``new_cache``."""

    model = Infinity

    def geometry(self, model: nn.Module) -> CacheGeometry:
        """The shape of the model's cache: the schedule of its canvas, one row, the dtype of its attention."""
        infinity = cast(Infinity, model)
        return infinity.config.geometry(infinity.canvas, infinity.dtype)
