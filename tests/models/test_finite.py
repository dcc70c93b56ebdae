"""A model whose numbers overflow generates no image; the error names the scale, and with check=True the layer."""

from __future__ import annotations

import pytest
import torch

from scalekv_core import Registry, compress
from scalekv_core.errors import NonFiniteError
from scalekv_core.models.finite import FiniteLogits
from scalekv_core.plugins.registry import load_model
from scalekv_core.testing import toy

SECOND_SCALE = slice(1, 3)


@pytest.fixture
def damaged() -> toy.ToyImageModel:
    """A model whose numbers are NaN from its second scale on."""
    model = load_model("toy", registry=Registry.of(toy))
    with torch.no_grad():
        model.module.places.weight[SECOND_SCALE] = torch.nan
    return model


def test_the_scale_is_named(damaged: toy.ToyImageModel) -> None:
    with pytest.raises(NonFiniteError, match=r"the toy model computed logits that are not finite .* first at scale 1;"):
        damaged.generate(["3"], seeds=[0])


@pytest.mark.parametrize("budget", ["50%", "100%"])
def test_in_a_session_too(damaged: toy.ToyImageModel, budget: str) -> None:
    """In a session the generation ends with an error, and the model is restored."""
    before = damaged.module.new_cache
    with (
        pytest.raises(NonFiniteError, match="first at scale 1;"),
        compress(damaged, "toy-latest", budget, registry=Registry.of(toy)),
    ):
        damaged.generate(["3"], seeds=[0])
    assert before == damaged.module.new_cache


def test_with_check_the_layer_is_named() -> None:
    """The error names the layer and scale at which numbers stop being finite."""
    model = load_model("toy", registry=Registry.of(toy))
    layer, calls = model.module.blocks[1], []

    def overflow(module, args, out):
        calls.append(out)
        return out * (torch.inf if len(calls) == 3 else 1)

    layer.qkv.register_forward_hook(overflow)
    with (
        pytest.raises(NonFiniteError, match="the queries of layer 1 at scale 2 are not finite"),
        compress(model, "toy-latest", "50%", registry=Registry.of(toy), check=True),
    ):
        model.generate(["3"], seeds=[0])


def test_flags_are_read_once_where_reading_waits() -> None:
    """On a device the flags are read at the end, and the first bad scale is named."""

    class OnADevice:
        def __init__(self, x: torch.Tensor) -> None:
            self.x, self.device = x, torch.device("cuda")

        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            return func(*(a.x if isinstance(a, cls) else a for a in args), **(kwargs or {}))

    watch = FiniteLogits("a model")
    for value in (0.0, torch.inf, torch.nan):
        watch.see(OnADevice(torch.tensor([value])))
    with pytest.raises(NonFiniteError, match="first at scale 1;"):
        watch.check()
