"""Reading published HART checkpoints: the transformer with its config.json, and the tokenizer.

Sizes come from the weights; what these do not tell (heads, sides of the maps, steps of the diffusion) comes from the config, which
must not contradict them. Nothing in a file is run.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor

from scalekv_adapters.hart.config import HARTConfig
from scalekv_adapters.hart.generation import HART
from scalekv_adapters.vqvae import VQVAE, vqvae_config
from scalekv_core.errors import CheckpointError, shortened
from scalekv_core.models.weights import State, WeightsFormat, fill, find_weights, numbered, shape_of

TRAINING = ("lvl_1L", "attn_bias_for_masking")
"""Buffers of training."""
CONFIG = "config.json"
VAE, DISCRIMINATOR = "vae.", "disc."


@attrs.frozen
class HARTFormat(WeightsFormat):
    """The transformer of HART; its official names are those of the module."""

    kind: ClassVar[str] = "HART"
    marker: ClassVar[str] = "context_embed.weight"

    def knows(self, names: Collection[str]) -> bool:
        return self.marker in names and any(name.startswith("diffloss.") for name in names)

    def normal(self, name: str, value: Tensor) -> Mapping[str, Tensor]:
        last = name.rpartition(".")[2]
        return {} if name in TRAINING or last == "zero_k_bias" else {name: value}

    def derived(self, name: str, like: Tensor) -> Tensor | None:
        return torch.zeros(like.shape) if name.endswith("zero_k_bias") else None


@attrs.frozen
class TokenizerFormat(WeightsFormat):
    """The tokenizer of HART: VAR's VQVAE, as published under ``vae.`` beside a discriminator."""

    kind: ClassVar[str] = "HART tokenizer"
    marker: ClassVar[str] = "quantize.embedding.weight"
    stays_as_it_is: ClassVar[bool] = True

    def normal(self, name: str, value: Tensor) -> Mapping[str, Tensor]:
        if name.startswith(DISCRIMINATOR) or name.endswith("ema_vocab_hit_SV"):
            return {}
        return {name.removeprefix(VAE): value}

    def derived(self, name: str, like: Tensor) -> Tensor | None:
        return torch.zeros(like.shape) if name.endswith("ema_vocab_hit_SV") else None


FORMATS = (HARTFormat(), TokenizerFormat())
"""What is published of HART."""


def load_hart(
    path: Path,
    config: Path,
    *,
    tokenizer: VQVAE | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    allow_nonfinite: bool = False,
) -> HART:
    """The HART of a checkpoint, in evaluation mode.

    Args:
        path: a .bin or .safetensors file with the weights.
        config: its config.json.
        tokenizer: what turns its codes into images.
        device, dtype: where and how to keep the weights.
        allow_nonfinite: accept infinities and numbers that are none.

    Raises:
        CheckpointError: a file cannot be read, holds code, is no HART, one of the GPT-2 kind, or contradicts its config.
    """
    weights = find_weights(path, HARTFormat(), known=FORMATS)
    with weights.named_in_errors():
        sizes = hart_config(weights.shapes, read_config(config))
    with torch.device("meta"):
        model = HART(sizes, tokenizer)
    return fill(model, weights, device=device, dtype=dtype, allow_nonfinite=allow_nonfinite)


def load_tokenizer(
    path: Path,
    *,
    patch_sides: tuple[int, ...],
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    allow_nonfinite: bool = False,
) -> VQVAE:
    """The tokenizer of a checkpoint, in evaluation mode; the file does not tell the sides of its maps."""
    weights = find_weights(path, TokenizerFormat(), known=FORMATS)
    with weights.named_in_errors():
        config = vqvae_config(weights.shapes, patch_sides)
    with torch.device("meta"):
        model = VQVAE(config)
    return fill(model, weights, device=device, dtype=dtype, allow_nonfinite=allow_nonfinite)


def read_config(path: Path) -> Mapping[str, Any]:
    """What a config.json says; CheckpointError if it is missing or no JSON."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); a HART needs its {CONFIG}") from None
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} is no {CONFIG} of a model: it holds a {type(config).__name__}")
    return config


def hart_config(state: State, told: Mapping[str, Any]) -> HARTConfig:
    """The sizes of a HART, of its weights and what its config tells.

    Raises:
        CheckpointError: it is of the GPT-2 kind, the config lacks something, or contradicts the weights.
    """
    if absolute := [name for name in ("pos_1LC", "pos_start") if name in state]:
        raise CheckpointError(
            f"it is a HART of the GPT-2 kind ({absolute[0]!r}), of which nothing was published; not supported"
        )
    width, context_width = shape_of(state, "context_embed.weight", 2)
    codes, _ = shape_of(state, "head.weight", 2)
    _, code_width = shape_of(state, "word_embed.weight", 2)
    hidden, _ = shape_of(state, "blocks.0.ffn.gate_proj.weight", 2)
    diffusion_width, _ = shape_of(state, "diffloss.net.input_proj.weight", 2)
    table, linear = "blocks.0.scale_shift_table" in state, "blocks.0.ada_lin.1.weight" in state
    config = HARTConfig(
        depth=numbered(state, "blocks."),
        width=width,
        heads=_number(_told(told, "num_heads"), "num_heads"),
        hidden=hidden,
        context_tokens=_number(_told(told, "context_token"), "context_token"),
        context_width=context_width,
        patch_sides=_sides(_told(told, "patch_nums")),
        codes=codes,
        code_width=code_width,
        adaln="linear" if linear else "table" if table else "none",
        pooling="mean" if told.get("sep_aln_pooling_mode", "max") == "avg" else "max",
        attn_l2_norm="blocks.0.attn.scale_mul_1H11" in state,
        level="table" if "lvl_embed.weight" in state else "sinusoid",
        context_norm="context_norm.weight" in state,
        diffusion_width=diffusion_width,
        diffusion_depth=numbered(state, "diffloss.net.res_blocks."),
        diffusion_steps=_number(_told(told, "num_sampling_steps"), "num_sampling_steps"),
    )
    _check_told(config, told)
    return config


def _told(told: Mapping[str, Any], name: str) -> Any:
    if name not in told:
        raise CheckpointError(f"its {CONFIG} lacks {name!r}")
    return told[name]


def _number(value: Any, name: str) -> int:
    """A whole number above 0; published configs also write it as text."""
    text = str(value)
    if isinstance(value, bool) or not (text.isascii() and text.isdigit() and 0 < int(text) < 10**6):
        raise CheckpointError(f"its {CONFIG} says {name} = {shortened(text)}; it needs a whole number from 1 to 999999")
    return int(text)


def _sides(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or not value:
        raise CheckpointError(
            f"its {CONFIG} says patch_nums = {shortened(str(value))}; it needs the sides of the maps, as [1, 2, ...]"
        )
    return tuple(_number(side, "patch_nums") for side in value)


def _check_told(config: HARTConfig, told: Mapping[str, Any]) -> None:
    """Raises CheckpointError where the config says something else than the weights."""
    found = {
        "depth": config.depth,
        "embed_dim": config.width,
        "context_dim": config.context_width,
        "disable_aln": config.adaln != "linear",
        "shared_aln": config.adaln == "table",
        "attn_l2_norm": config.attn_l2_norm,
        "use_timestep_embed": config.level == "sinusoid",
        "use_context_norm": config.context_norm,
        "diff_width": config.diffusion_width,
        "diff_depth": config.diffusion_depth,
    }
    if config.adaln == "linear":
        del found["shared_aln"]  # says nothing then
    for name, value in found.items():
        if name in told and told[name] != value:
            raise CheckpointError(f"its {CONFIG} says {name} = {told[name]!r}, its weights say {value!r}")
