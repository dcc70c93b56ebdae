"""Renamed methods work under both names, for callers and for authors of models."""

from __future__ import annotations

import pytest

from scalekv_core import BareModel, ModelCard
from scalekv_core.testing.toy import BareToy, ToyCard


def test_a_subclass_may_define_the_former_name() -> None:
    """A model that defines the former name works under the new one."""

    class Old(BareModel):
        def draw(self, images, cache, *, guidance=True):
            yield

        def decode(self, images):
            raise NotImplementedError

    class Newer(Old):
        def generate(self, images, cache, *, guidance=True):
            return "new"

    assert [None] == list(Old().generate(1, None))
    assert "new" == Newer().generate(1, None)


def test_callers_may_use_the_former_name() -> None:
    """Both names are the same method."""
    card = ToyCard()
    assert not card.accepts("3")
    assert not card.draws("3")
    model = card.load()
    assert model.set_shape == model.draw_on
    assert BareToy.generate is card.bare().draw.__func__


def test_what_a_class_lacks_is_an_attribute_error() -> None:
    """Other missing names are still an AttributeError."""
    with pytest.raises(AttributeError, match="'ToyCard' object has no attribute 'draw'"):
        ToyCard().draw  # noqa: B018
    assert not hasattr(ModelCard, "draws")
