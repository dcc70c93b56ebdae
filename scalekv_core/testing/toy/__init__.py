"""A toy model with everything that a real one has: a seam for the cache, an adapter, a card. Random weights, no sense.

It is the shortest complete example of what an adapter and an image model are, and what core's own tests run on.
"""

from __future__ import annotations

from collections.abc import Callable

from scalekv_core.contracts.adapter import ModelAdapter
from scalekv_core.contracts.policy import Policy
from scalekv_core.contracts.strategies import TokenSelector
from scalekv_core.models.card import ModelCard
from scalekv_core.plugins.hookspecs import hookimpl
from scalekv_core.testing.toy.adapter import ToyAdapter
from scalekv_core.testing.toy.image_model import VIDEO_CARD, BareToy, ToyCard, ToyImageModel
from scalekv_core.testing.toy.strategies import Even, Latest, latest
from scalekv_core.testing.toy.transformer import (
    CODES,
    GEOMETRY,
    SAMPLING,
    SCHEDULE,
    VIDEO,
    VIDEO_GEOMETRY,
    ToyBlock,
    ToyModel,
    picture,
)

__all__ = [
    "CODES",
    "GEOMETRY",
    "SAMPLING",
    "SCHEDULE",
    "VIDEO",
    "VIDEO_CARD",
    "VIDEO_GEOMETRY",
    "BareToy",
    "Even",
    "Latest",
    "ToyAdapter",
    "ToyBlock",
    "ToyCard",
    "ToyImageModel",
    "ToyModel",
    "latest",
    "picture",
]


@hookimpl
def scalekv_policies() -> dict[str, Callable[[], Policy]]:
    return {"toy-latest": latest}


@hookimpl
def scalekv_token_selectors() -> dict[str, Callable[[], TokenSelector]]:
    return {"toy-latest": Latest}


@hookimpl
def scalekv_model_adapters() -> dict[str, Callable[[], ModelAdapter]]:
    return {"toy": ToyAdapter}


@hookimpl
def scalekv_image_models() -> dict[str, Callable[[], ModelCard]]:
    return {"toy": ToyCard, "toy-video": lambda: VIDEO_CARD}
