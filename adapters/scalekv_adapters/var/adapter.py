"""Attaching to the VAR of this room: its seam for a cache is an attribute of the instance."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from torch import nn

from scalekv_adapters.instances import replace_attributes
from scalekv_adapters.var.config import check_trained
from scalekv_adapters.var.transformer import VAR
from scalekv_core.contracts.adapter import CacheSource, ModelAdapter
from scalekv_core.shapes.geometry import CacheGeometry


class VARAdapter(ModelAdapter):
    """VAR as loaded by scalekv: swaps the instance's ``new_cache``."""

    def matches(self, model: nn.Module) -> bool:
        return isinstance(model, VAR)

    def geometry(self, model: nn.Module) -> CacheGeometry:
        """The shape of the model's cache: the schedule of its config, one row, the dtype of its weights.

        Raises:
            InputError: its maps are not those that it was trained with.
        """
        var = cast(VAR, model)
        check_trained(var.config.schedule, var.lvl_1L)
        return var.config.geometry(var.head.weight.dtype)

    def attach(self, model: nn.Module, source: CacheSource) -> Callable[[], None]:
        return replace_attributes(model, new_cache=source.new_cache)
