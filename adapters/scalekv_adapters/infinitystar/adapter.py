"""Attaching to the InfinityStar that is written here."""

from __future__ import annotations

from typing import cast

from torch import nn

from scalekv_adapters.infinitystar.generation import InfinityStar
from scalekv_adapters.new_cache import NewCacheAdapter
from scalekv_core.shapes.geometry import CacheGeometry


class InfinityStarAdapter(NewCacheAdapter):
    """InfinityStar as loaded by scalekv: swaps the instance's ``new_cache``."""

    model = InfinityStar
    schedule_varies = True

    def geometry(self, model: nn.Module) -> CacheGeometry:
        """The shape of the model's cache: its pyramids behind the text that it expects, one row, the dtype of its weights."""
        star = cast(InfinityStar, model)
        return star.config.geometry(star.pyramids.schedule(star.text_tokens), star.dtype)
