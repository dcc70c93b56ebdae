"""The option that lets weights through that are not finite reaches whoever reads them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from attrs import frozen

from scalekv_core import CheckpointError, Registry, hookimpl, load_model
from scalekv_core.testing import toy


@frozen(kw_only=True)
class StrictCard(toy.ToyCard):
    """Refuses to load unless numbers that are not finite are allowed."""

    def load(self, *, allow_nonfinite: bool = False, **options: Any) -> toy.ToyImageModel:
        if not allow_nonfinite:
            raise CheckpointError("not finite")
        return super().load(**options)


@frozen(kw_only=True)
class ShippedCard(toy.ToyCard):
    """Ships its weights, and does not know the option."""

    def load(self, *, weights: Any = None, device: str = "cpu", dtype: Any = None) -> toy.ToyImageModel:
        return super().load(device=device, dtype=dtype)


class Plugin:
    """Both cards."""

    @hookimpl
    def scalekv_image_models(self) -> Mapping[str, Callable[[], Any]]:
        return {"strict": StrictCard, "shipped": ShippedCard}


def test_load_model_hands_it_to_the_card() -> None:
    """Only where it is asked for, so that other cards need not know it."""
    registry = Registry.of(Plugin())
    with pytest.raises(CheckpointError, match="not finite"):
        load_model("strict", registry=registry)
    assert load_model("strict", allow_nonfinite=True, registry=registry).module
    assert load_model("shipped", registry=registry).module
