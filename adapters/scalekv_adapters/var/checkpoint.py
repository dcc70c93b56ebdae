"""Reading published VAR and VQVAE checkpoints.

The sizes come from the file, not from the user: a checkpoint says what it is, and a wrong guess would end in a page of
shape mismatches. Nothing in a file is executed (only tensors are unpickled), and all that can be wrong with one ends in a
`CheckpointError` of one line.
"""

from __future__ import annotations

from math import isqrt
from os import PathLike
from pathlib import Path
from typing import ClassVar

import attrs
import torch
from torch import Tensor

from scalekv_adapters.var.config import PUBLISHED, VARConfig, tokens_per_level
from scalekv_adapters.var.transformer import VAR
from scalekv_adapters.var.vqvae import SIDES_256, VQVAE, VQVAEConfig
from scalekv_core.errors import CheckpointError
from scalekv_core.models.weights import State, Weights, WeightsFormat, fill, find_weights, numbered


@attrs.frozen
class VARFormat(WeightsFormat):
    """The transformer of VAR; its official names are those of the module."""

    kind: ClassVar[str] = "VAR"
    marker: ClassVar[str] = "pos_1LC"


@attrs.frozen
class VQVAEFormat(WeightsFormat):
    """The VQVAE of VAR; its official names are those of the module."""

    kind: ClassVar[str] = "VQVAE"
    marker: ClassVar[str] = "quantize.embedding.weight"
    stays_as_it_is: ClassVar[bool] = True


FORMATS = (VARFormat(), VQVAEFormat())
"""What is published of VAR."""


def load_var(
    path: str | PathLike[str],
    *,
    vqvae: VQVAE | None = None,
    expect: str | VARConfig | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> VAR:
    """The VAR of a checkpoint, in evaluation mode.

    Args:
        path: a .pth or .safetensors file; a bare state dict, or a trainer's.
        vqvae: what turns its tokens into images.
        expect: what the checkpoint should be: the name of a published model, such as "var-d16", or its sizes. Without
            attention l2 norm the file does not tell the number of heads; then they are those expected, or 64 wide.
        device, dtype: where and how to keep the weights.

    Raises:
        CheckpointError: the file is truncated, holds code, is no VAR, or is another VAR than expected.
        InputError: the VQVAE's tokens are not those of the VAR.
    """
    path = Path(path)
    wanted = VARConfig.published(expect) if isinstance(expect, str) else expect
    weights = find_weights(path, VARFormat(), known=FORMATS)
    config = var_config(weights, wanted)
    if wanted is not None and config != wanted:
        raise CheckpointError(
            f"checkpoint {path} is {describe(config, wanted)}; you asked for {describe(wanted, config)}"
        )
    with torch.device("meta"):
        model = VAR(config, vqvae)
    return fill(model, weights, device=device, dtype=dtype)


def load_vqvae(
    path: str | PathLike[str],
    *,
    patch_sides: tuple[int, ...] = SIDES_256,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> VQVAE:
    """The VQVAE of a checkpoint, in evaluation mode.

    Args:
        path: a .pth or .safetensors file; a bare state dict, or a trainer's.
        patch_sides: sides of its maps. The file does not tell them: the same published VQVAE serves SIDES_256 and SIDES_512.
        device, dtype: where and how to keep the weights.

    Raises:
        CheckpointError: the file is truncated, holds code, is no VQVAE, or has another number of scales.
    """
    path = Path(path)
    weights = find_weights(path, VQVAEFormat(), known=FORMATS)
    config = vqvae_config(weights, patch_sides)
    with torch.device("meta"):
        model = VQVAE(config)
    return fill(model, weights, device=device, dtype=dtype)


def var_config(weights: Weights, wanted: VARConfig | None) -> VARConfig:
    """The sizes of a VAR, read off its weights."""
    state, path = weights.shapes, weights.path
    try:
        width = state["pos_1LC"].shape[-1]
        return VARConfig(
            depth=numbered(state, "blocks."),
            width=width,
            heads=heads(state, path, wanted),
            num_classes=len(state["class_emb.weight"]) - 1,
            patch_sides=patch_sides(weights.tensor("lvl_1L"), path),
            codes=len(state["head.weight"]),
            code_width=state["word_embed.weight"].shape[1],
            shared_adaln="shared_ada_lin.1.weight" in state,
            attn_l2_norm="blocks.0.attn.scale_mul_1H11" in state,
            mlp_ratio=len(state["blocks.0.ffn.fc1.weight"]) / width,
        )
    except KeyError as error:
        raise CheckpointError(f"checkpoint {path} is no complete VAR: it lacks {error}") from None


def vqvae_config(weights: Weights, patch_sides: tuple[int, ...]) -> VQVAEConfig:
    """The sizes of a VQVAE, read off its weights, all but the sides of its maps."""
    state, path = weights.shapes, weights.path
    try:
        scales = len(state["quantize.ema_vocab_hit_SV"])
        codes, code_width = state["quantize.embedding.weight"].shape
        base = len(state["encoder.conv_in.weight"])
        levels = range(numbered(state, "encoder.down."))
        widths = [len(state[f"encoder.down.{i}.block.0.conv1.weight"]) for i in levels]
    except KeyError as error:
        raise CheckpointError(f"checkpoint {path} is no complete VQVAE: it lacks {error}") from None
    if scales != len(patch_sides):
        raise CheckpointError(
            f"checkpoint {path} is a VQVAE of {scales} scales; you asked for patch_sides {patch_sides}"
        )
    return VQVAEConfig(
        codes=codes,
        code_width=code_width,
        base_channels=base,
        multipliers=tuple(width // base for width in widths),
        blocks=numbered(state, "encoder.down.0.block."),
        patch_sides=patch_sides,
    )


def heads(state: State, path: Path, wanted: VARConfig | None) -> int:
    """The number of heads: from the head scales; without these as expected; without expectation 64 wide."""
    scale, width = state.get("blocks.0.attn.scale_mul_1H11"), state["pos_1LC"].shape[-1]
    if scale is not None:
        return scale.shape[1]
    if wanted is not None:
        return wanted.heads
    if width % 64:
        raise CheckpointError(
            f"checkpoint {path} does not tell the number of heads of width {width}; give expect=VARConfig(...)"
        )
    return width // 64


def patch_sides(levels: Tensor, path: Path) -> tuple[int, ...]:
    """Side of the map of every scale, from the level of every token (1, L)."""
    counts = tokens_per_level(levels)
    sides = tuple(isqrt(count) for count in counts)
    if tuple(side * side for side in sides) != counts:
        raise CheckpointError(f"checkpoint {path} has maps that are not square: {counts} tokens per scale")
    return sides


def describe(config: VARConfig, other: VARConfig) -> str:
    """A model's published name, if it has one, and the sizes in which it differs from another."""
    name = next((name for name in PUBLISHED if VARConfig.published(name) == config), "a VAR")
    mine, theirs = attrs.asdict(config), attrs.asdict(other)
    sizes = ", ".join(f"{key} {value}" for key, value in mine.items() if value != theirs[key])
    return f"{name} of {sizes}"
