"""Reading published VAR and VQVAE checkpoints.

The sizes come from the file, not from the user: a checkpoint says what it is, and a wrong guess would end in a page of
shape mismatches. Nothing in a file is run, and all that can be wrong with one ends in a `CheckpointError` of one line.
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
from scalekv_adapters.var.generation import VAR
from scalekv_adapters.vqvae import SIDES_256, VQVAE, vqvae_config
from scalekv_core.errors import CheckpointError
from scalekv_core.models.weights import State, Weights, WeightsFormat, fill, find_weights, numbered, shape_of

HEAD_SCALES = "blocks.0.attn.scale_mul_1H11"
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
MOST_SCALES = 100
"""More than any VAR has; a damaged level table may tell any number."""


@attrs.frozen
class VARFormat(WeightsFormat):
    """The transformer of VAR; its official names are those of the module."""

    kind: ClassVar[str] = "VAR"
    marker: ClassVar[str] = "pos_1LC"
    masks: ClassVar[tuple[str, ...]] = ("attn_bias_for_masking",)


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
    allow_nonfinite: bool = False,
) -> VAR:
    """The VAR of a checkpoint, in evaluation mode.

    Args:
        path: a .pth or .safetensors file; a bare state dict, or a trainer's.
        vqvae: what turns its tokens into images.
        expect: what the checkpoint should be: the name of a published model, such as "var-d16", or its sizes. Without
            attention l2 norm the file does not tell the number of heads; then they are those expected, or 64 wide.
        device, dtype: where and how to keep the weights.
        allow_nonfinite: accept infinities and numbers that are none.

    Raises:
        CheckpointError: the file cannot be read, holds code, is no VAR, or is another VAR than expected.
        InputError: the VQVAE's tokens are not those of the VAR.
    """
    path = Path(path)
    wanted = VARConfig.published(expect) if isinstance(expect, str) else expect
    weights = find_weights(path, VARFormat(), known=FORMATS)
    with weights.named_in_errors():
        config = var_config(weights, wanted)
    if wanted is not None and config != wanted:
        raise CheckpointError(
            f"checkpoint {path} is {describe(config, wanted)}; you asked for {describe(wanted, config)}"
        )
    with torch.device("meta"):
        model = VAR(config, vqvae)
    return fill(model, weights, device=device, dtype=dtype, allow_nonfinite=allow_nonfinite)


def load_vqvae(
    path: str | PathLike[str],
    *,
    patch_sides: tuple[int, ...] = SIDES_256,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    allow_nonfinite: bool = False,
) -> VQVAE:
    """The VQVAE of a checkpoint, in evaluation mode.

    Args:
        path: a .pth or .safetensors file; a bare state dict, or a trainer's.
        patch_sides: sides of its maps. The file does not tell them: the same published VQVAE serves SIDES_256 and SIDES_512.
        device, dtype: where and how to keep the weights.
        allow_nonfinite: accept infinities and numbers that are none.

    Raises:
        CheckpointError: the file cannot be read, holds code, is no VQVAE, or has another number of scales.
    """
    path = Path(path)
    weights = find_weights(path, VQVAEFormat(), known=FORMATS)
    with weights.named_in_errors():
        scales, _ = shape_of(weights.shapes, "quantize.ema_vocab_hit_SV", 2)
        if scales != len(patch_sides):
            raise CheckpointError(f"it has {scales} scales; you asked for patch_sides {patch_sides}")
        config = vqvae_config(weights.shapes, patch_sides)
    with torch.device("meta"):
        model = VQVAE(config)
    return fill(model, weights, device=device, dtype=dtype, allow_nonfinite=allow_nonfinite)


def var_config(weights: Weights, wanted: VARConfig | None) -> VARConfig:
    """The sizes of a VAR, read off its weights."""
    state = weights.shapes
    _, tokens, width = shape_of(state, "pos_1LC", 3)
    classes, _ = shape_of(state, "class_emb.weight", 2)
    codes, _ = shape_of(state, "head.weight", 2)
    _, code_width = shape_of(state, "word_embed.weight", 2)
    hidden, _ = shape_of(state, "blocks.0.ffn.fc1.weight", 2)
    return VARConfig(
        depth=numbered(state, "blocks."),
        width=width,
        heads=heads(state, width, wanted),
        num_classes=classes - 1,
        patch_sides=patch_sides(weights.tensor("lvl_1L"), tokens),
        codes=codes,
        code_width=code_width,
        shared_adaln="shared_ada_lin.1.weight" in state,
        attn_l2_norm=HEAD_SCALES in state,
        mlp_ratio=hidden / width,
    )


def heads(state: State, width: int, wanted: VARConfig | None) -> int:
    """The number of heads: from the head scales; without these as expected; without expectation 64 wide."""
    if HEAD_SCALES in state:
        return shape_of(state, HEAD_SCALES, 4)[1]
    if wanted is not None:
        return wanted.heads
    if width % 64:
        raise CheckpointError(f"it does not say how many heads share its width {width}; give expect=VARConfig(...)")
    return width // 64


def patch_sides(levels: Tensor, tokens: int) -> tuple[int, ...]:
    """Side of the map of every scale, from the scale of every token (1, L).

    Raises:
        CheckpointError: this is no list of the scales of so many tokens, or a map is not square.
    """
    flat = levels.flatten().to(torch.int64) if levels.dtype in INTEGERS else levels.new_empty(0)
    rises = flat.diff()
    if len(flat) != tokens or flat[0] != 0 or not bool(((rises == 0) | (rises == 1)).all()):
        raise CheckpointError(f"its lvl_1L is not an ascending list of the scales of its {tokens} tokens")
    if flat[-1] >= MOST_SCALES:
        raise CheckpointError(f"its lvl_1L lists {flat[-1] + 1} scales; a VAR has at most {MOST_SCALES}")
    counts = tokens_per_level(flat)
    sides = tuple(isqrt(count) for count in counts)
    if tuple(side * side for side in sides) != counts:
        raise CheckpointError(f"it has maps that are not square: {counts} tokens per scale")
    return sides


def describe(config: VARConfig, other: VARConfig) -> str:
    """A model's published name, if it has one, and the sizes in which it differs from another."""
    name = next((name for name in PUBLISHED if VARConfig.published(name) == config), "a VAR")
    mine, theirs = attrs.asdict(config), attrs.asdict(other)
    sizes = ", ".join(f"{key} {value}" for key, value in mine.items() if value != theirs[key])
    return f"{name} of {sizes}"
