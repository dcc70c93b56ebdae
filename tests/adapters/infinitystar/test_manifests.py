"""The published sizes: every name and shape, on the meta device."""

from __future__ import annotations

import json

import torch

from scalekv_adapters.infinitystar.config import InfinityStarConfig
from scalekv_adapters.infinitystar.generation import InfinityStar
from tests.adapters.infinitystar.tokenizer_data import DATA


def test_the_transformer_has_the_names_and_shapes_of_the_published_one() -> None:
    """8,768,382,112 parameters in 407 tensors under their official names."""
    recorded = json.loads((DATA / "manifests" / "infinitystar_8b.json").read_text())
    with torch.device("meta"):
        model = InfinityStar(InfinityStarConfig())
    found = {name: list(x.shape) for name, x in model.named_parameters()}
    assert recorded["params"] == found
    assert 407 == len(found)
    assert recorded["n_params"] == sum(x.numel() for x in model.parameters()) == 8_768_382_112
    assert list(model.named_buffers()) == []
