"""An overflow ends a generation of either family; the error names the scale, and with check=True the layer."""

from __future__ import annotations

import pytest
import torch

from scalekv_adapters.infinity.prompts import PackedText
from scalekv_core import compress
from scalekv_core.errors import NonFiniteError
from tests.adapters.small import small_infinity, small_var


def generate_var(model, **how):
    return model.generate([3], seeds=[0], **how)


def generate_infinity(model, **how):
    return model.generate(PackedText.pack([torch.ones(2, 128)]), seeds=[0], **how)


FAMILIES = {"VAR": (small_var, generate_var), "Infinity": (small_infinity, generate_infinity)}


@pytest.fixture(params=FAMILIES)
def family(request):
    """(name, model, how to generate with it)."""
    torch.manual_seed(0)
    make, generate = FAMILIES[request.param]
    return request.param, make(), generate


def test_guidance_that_overflows_is_an_error(family) -> None:
    """Guidance that overflows is an error, not an image."""
    name, model, generate = family
    with pytest.raises(NonFiniteError, match=f"{name} computed logits that are not finite .* first at scale [01];"):
        generate(model, guidance=1e39)


def test_damaged_weights_are_named_by_scale_and_with_check_by_layer(family) -> None:
    """The third layer overflows: every logit is NaN from the first scale on, and attention sees it in the fourth."""
    _, model, generate = family
    list(model.blocks)[2].ffn.fc2.weight.fill_(torch.inf)
    with pytest.raises(NonFiniteError, match="first at scale 0;"):
        generate(model, guidance=0.0)
    with pytest.raises(NonFiniteError, match="first at scale 0;"), compress(model, "full"):
        generate(model, guidance=0.0)
    with (
        pytest.raises(NonFiniteError, match="the queries of layer 3 at scale 0 are not finite"),
        compress(model, "full", check=True),
    ):
        generate(model, guidance=0.0)
