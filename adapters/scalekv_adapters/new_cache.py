"""Attaching to a model that is written here: its seam for a cache, ``new_cache``, is an attribute of the instance."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from torch import nn

from scalekv_adapters.instances import replace_attributes
from scalekv_core.contracts.adapter import CacheSource, ModelAdapter


class NewCacheAdapter(ModelAdapter):
    """Swaps the instance's ``new_cache``. A family adds its geometry."""

    model: ClassVar[type[nn.Module]]

    def matches(self, model: nn.Module) -> bool:
        return isinstance(model, self.model)

    def attach(self, model: nn.Module, source: CacheSource) -> Callable[[], None]:
        return replace_attributes(model, new_cache=source.new_cache)
