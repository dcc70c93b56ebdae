"""Attaching to the VAR that is written here."""

from __future__ import annotations

from typing import cast

from torch import nn

from scalekv_adapters.new_cache import NewCacheAdapter
from scalekv_adapters.var.config import check_trained
from scalekv_adapters.var.generation import VAR
from scalekv_core.shapes.geometry import CacheGeometry


class VARAdapter(NewCacheAdapter):
    """VAR as loaded by scalekv: swaps the instance's ``new_cache``."""

    model = VAR

    def geometry(self, model: nn.Module) -> CacheGeometry:
        """The shape of the model's cache: the schedule of its config, one row, the dtype of its weights.

        Raises:
            InputError: its maps are not those that it was trained with.
        """
        var = cast(VAR, model)
        check_trained(var.config.schedule, var.lvl_1L)
        return var.config.geometry(var.head.weight.dtype)
