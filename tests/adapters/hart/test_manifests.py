"""The published sizes: every name and shape, on the meta device."""

from __future__ import annotations

import torch

from scalekv_adapters.hart.config import HARTConfig
from scalekv_adapters.hart.generation import HART
from scalekv_adapters.vqvae import VQVAE

BUFFERS_OF_TRAINING = {"lvl_1L", "attn_bias_for_masking"}


def test_the_transformer_has_the_names_and_shapes_of_the_published_one(manifest) -> None:
    """732,399,168 parameters under their official names."""
    recorded, config = manifest("hart_0.7b"), HARTConfig.published("hart-0.7b")
    with torch.device("meta"):
        model = HART(config)
    assert recorded["params"] == {name: list(x.shape) for name, x in model.named_parameters()}
    assert set(recorded["buffers"]) - BUFFERS_OF_TRAINING == {name for name, _ in model.named_buffers()}
    assert recorded["n_params"] == sum(x.numel() for x in model.parameters()) == 732_399_168
    told = recorded["config"]
    assert (told["patch_nums"], told["context_token"]) == (list(config.patch_sides), config.context_tokens)


def test_the_tokenizer_has_the_names_and_shapes_of_the_published_one(manifest) -> None:
    """108,948,355 parameters under their official names."""
    recorded = manifest("hart_tokenizer")
    with torch.device("meta"):
        model = VQVAE(HARTConfig.published("hart-0.7b").tokenizer)
    assert recorded["params"] == {name: list(x.shape) for name, x in model.named_parameters()}
    assert {name: value["shape"] for name, value in recorded["buffers"].items()} == {
        name: list(x.shape) for name, x in model.named_buffers()
    }
    assert recorded["n_params"] == sum(x.numel() for x in model.parameters()) == 108_948_355
