"""Pipelines of the toy model and of the shipped ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from scalekv_core import Pipeline, Registry
from scalekv_core.testing import toy

TOY = Registry.of(toy)


@pytest.fixture
def toy_pipe() -> Callable[..., Pipeline]:
    """Makes a pipeline of the toy model, under its own policy unless told otherwise."""

    def make(policy: Any = "toy-latest", **how: Any) -> Pipeline:
        return Pipeline.from_pretrained("toy", policy=policy, registry=TOY, **how)

    return make


@pytest.fixture(scope="module")
def captions() -> Pipeline:
    """infinity-tiny under a policy that evicts; loaded once, since a pipeline leaves its model as it was."""
    return Pipeline.from_pretrained("infinity-tiny", policy="fold", budget="10%")


@pytest.fixture(scope="module")
def digits() -> Pipeline:
    """var-tiny, loaded once in the same way."""
    return Pipeline.from_pretrained("var-tiny", policy="fold", budget="10%")
