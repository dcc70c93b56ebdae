"""``torch.compile(model.generate)`` gives the same images: the loop is left to Python, in a session and without."""

from __future__ import annotations

import contextlib

import pytest
import torch

from scalekv_core import compress
from tests.adapters.test_finite import FAMILIES


@pytest.mark.thorough
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("compressed", [False, True])
def test_a_compiled_generate_gives_the_same_images(family: str, compressed: bool) -> None:
    """It works, and nothing of it is said to be slower or faster: compile the blocks where that matters."""
    torch.manual_seed(0)
    make, generate = FAMILIES[family]
    model = make()
    want = generate(model).images
    compiled = type("Compiled", (), {"generate": staticmethod(torch.compile(model.generate, backend="eager"))})
    with compress(model, "full") if compressed else contextlib.nullcontext():
        assert torch.equal(want, generate(compiled).images)
