"""``torch.compile(model.generate)`` gives the same images, in a session and without; the loop runs in Python."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch import nn

from scalekv_core import compress, load_model
from scalekv_core.session.session import Session
from tests.adapters.small import small_infinity, small_var
from tests.adapters.test_finite import generate_infinity, generate_var

FAMILIES = {"VAR": (lambda: small_var((1, 2, 3)), generate_var), "Infinity": (small_infinity, generate_infinity)}


def compressed(
    model: nn.Module, how: tuple[str, str | None] | None
) -> contextlib.AbstractContextManager[Session | None]:
    """A session under this policy and budget; none for None."""
    return contextlib.nullcontext() if how is None else compress(model, *how)


@pytest.mark.thorough
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("how", [None, ("full", None), ("streaming", "2 tokens"), ("h2o", "2 tokens")], ids=str)
def test_a_compiled_generate_gives_the_same_images(family: str, how: tuple[str, str | None] | None) -> None:
    """Images are the same unmodified, under `full` and under policies that evict. For speed, compile the blocks."""
    torch.manual_seed(0)
    make, generate = FAMILIES[family]
    model = make()
    with compressed(model, how):
        want = generate(model).images
    compiled = type("Compiled", (), {"generate": staticmethod(torch.compile(model.generate, backend="eager"))})
    with compressed(model, how) as session:
        assert torch.equal(want, generate(compiled).images)
    if session is not None:
        assert [how != ("full", None)] == [image.dropped for image in session.report().images]


@pytest.mark.thorough
@pytest.mark.parametrize(("name", "prompt"), [("var-tiny", "3"), ("infinity-tiny", "a red circle")])
def test_a_compiled_generate_of_a_loaded_model_gives_the_same_images(name: str, prompt: str) -> None:
    """In a block and outside of one."""
    model = load_model(name)
    compiled = torch.compile(model.generate, backend="eager")
    for how in (None, ("uniform", "10%")):
        with compressed(model.module, how):
            want = model.generate([prompt], seeds=[0]).images
        with compressed(model.module, how):
            assert torch.equal(want, compiled([prompt], seeds=[0]).images)
