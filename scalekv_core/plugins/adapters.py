"""Wraps a plugin's adapter, so that its errors name both adapter and plugin."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from scalekv_core.contracts.adapter import CacheSource, ModelAdapter
from scalekv_core.errors import PluginError
from scalekv_core.plugins.offers import Offer, foreign
from scalekv_core.shapes.geometry import CacheGeometry


class OwnedAdapter(ModelAdapter):
    """The wrapped adapter. Errors of scalekv and Ctrl-C pass through it; all others become PluginErrors.

    Args:
        offer: of an adapter.
    """

    def __init__(self, offer: Offer) -> None:
        self._offer = offer
        self._adapter: ModelAdapter = offer.make()

    def __str__(self) -> str:
        return f"{self._offer.name!r} of {self._offer.owner}"

    @property
    def schedule_varies(self) -> bool:  # type: ignore[override]  # a constant of the adapter's class
        return self._adapter.schedule_varies

    def matches(self, model: nn.Module) -> bool:
        with foreign(f"{self._offer} cannot tell whether it knows a {type(model).__name__}"):
            return bool(self._adapter.matches(model))

    def geometry(self, model: nn.Module) -> CacheGeometry:
        with foreign(f"{self._offer} cannot tell the shape of this {type(model).__name__}"):
            geometry = self._adapter.geometry(model)
        if not isinstance(geometry, CacheGeometry):
            raise PluginError(f"{self._offer} must return a CacheGeometry; got {geometry!r}")
        return geometry

    def attach(self, model: nn.Module, source: CacheSource) -> Callable[[], None]:
        with foreign(f"{self._offer} cannot attach to this {type(model).__name__}"):
            detach = self._adapter.attach(model, source)
        if not callable(detach):
            raise PluginError(f"{self._offer} must return from attach what detaches; got {detach!r}")

        def guarded() -> None:
            with foreign(f"{self._offer} cannot detach from this {type(model).__name__}"):
                detach()

        return guarded
