"""Attaching to the HART that is written here."""

from __future__ import annotations

from typing import cast

from torch import nn

from scalekv_adapters.hart.generation import HART
from scalekv_adapters.new_cache import NewCacheAdapter
from scalekv_core.shapes.geometry import CacheGeometry


class HARTAdapter(NewCacheAdapter):
    """HART as loaded by scalekv: swaps the instance's ``new_cache``."""

    model = HART

    def geometry(self, model: nn.Module) -> CacheGeometry:
        """The shape of the model's cache: text and maps of its config, one row, the dtype of its weights."""
        hart = cast(HART, model)
        return hart.config.geometry(hart.head.weight.dtype)
