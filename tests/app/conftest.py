"""The toy plugin as the only one installed, and the page without its toolkit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from attrs import frozen

from scalekv_core import ImageModel, Registry, hookimpl
from scalekv_core.app.calls import Place
from scalekv_core.app.engine import Engine, Settings
from scalekv_core.app.form import Form
from scalekv_core.app.turns import Turns
from scalekv_core.app.views import Views
from scalekv_core.testing import toy


@frozen(kw_only=True)
class Unshipped(toy.ToyCard):
    """A toy model whose weights do not ship."""

    needs_weights = True
    weights: str = "a folder with toy.pth"


@frozen(kw_only=True)
class Second(toy.ToyCard):
    """The same toy model under another name."""

    def load(self, **kwargs: Any) -> ImageModel:
        model = super().load(**kwargs)
        model.name = "second"
        return model


class More:
    """A plugin with two more models."""

    __name__ = "more"

    @hookimpl
    def scalekv_image_models(self) -> Mapping[str, Callable[[], Any]]:
        return {"unshipped": Unshipped, "second": Second}


@pytest.fixture
def registry() -> Registry:
    """The toy plugin and two more models."""
    return Registry.of(toy, More())


@pytest.fixture
def engine(registry: Registry) -> Engine:
    """The engine of the page; no model is loaded yet."""
    return Engine(registry, Settings(model="toy", policy="toy-latest"))


@pytest.fixture
def views(engine: Engine) -> Iterator[Views]:
    """The page without its toolkit."""
    turns = Turns(engine.work, describe=lambda error: None)
    yield Views(engine, turns, Place())
    turns.close()


@pytest.fixture
def form() -> Form:
    """An image of the toy model under its policy."""
    return Form(model="toy", policy="toy-latest", prompt="3", seed="5")
