"""The option that accepts weights that are not finite reaches the card that reads them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from attrs import frozen

from scalekv_core import CheckpointError, InputError, Registry, hookimpl, load_model
from scalekv_core.testing import toy


@frozen(kw_only=True)
class StrictCard(toy.ToyCard):
    """Refuses to load unless values that are not finite are allowed."""

    def load(self, *, allow_nonfinite: bool = False, **options: Any) -> toy.ToyImageModel:
        if not allow_nonfinite:
            raise CheckpointError("not finite")
        return super().load(**options)


@frozen(kw_only=True)
class ShippedCard(toy.ToyCard):
    """Ships its weights and does not have the option."""

    def load(self, *, weights: Any = None, device: str = "cpu", dtype: Any = None) -> toy.ToyImageModel:
        return super().load(device=device, dtype=dtype)


@frozen(kw_only=True)
class LockedCard(toy.ToyCard):
    """Reads a folder that may not be entered."""

    def load(self, **options: Any) -> toy.ToyImageModel:
        raise PermissionError(13, "Permission denied", "folder/t5")


class Plugin:
    """A plugin with these cards."""

    @hookimpl
    def scalekv_image_models(self) -> Mapping[str, Callable[[], Any]]:
        return {"strict": StrictCard, "shipped": ShippedCard, "locked": LockedCard}


def test_load_model_hands_it_to_the_card() -> None:
    """The option is passed only if set, so that other cards need not accept it."""
    registry = Registry.of(Plugin())
    with pytest.raises(CheckpointError, match="not finite"):
        load_model("strict", registry=registry)
    assert load_model("strict", allow_nonfinite=True, registry=registry).module
    assert load_model("shipped", registry=registry).module


def test_a_card_that_does_not_know_it_is_named() -> None:
    """In one line, instead of Python's own words for an argument too many."""
    with pytest.raises(
        InputError, match=r"model 'shipped' \(ShippedCard\) cannot be loaded with allow_nonfinite, which its"
    ):
        load_model("shipped", allow_nonfinite=True, registry=Registry.of(Plugin()))


def test_what_the_system_refuses_while_loading_is_one_line() -> None:
    """A folder that may not be entered, whatever the card reads of it."""
    with pytest.raises(CheckpointError, match=r"model 'locked': folder/t5 cannot be read \(Permission denied\)"):
        load_model("locked", registry=Registry.of(Plugin()))
