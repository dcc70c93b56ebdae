"""Reading published Infinity and BSQ-VAE checkpoints, as people have them.

The sizes come from the files, not from the user. Nothing in a file is run, and all that can be wrong with one ends in a
`CheckpointError` of one line.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from os import PathLike
from pathlib import Path
from typing import ClassVar

import attrs
import torch
from torch import Tensor

from scalekv_adapters.infinity.config import CANVASES, PUBLISHED, InfinityConfig
from scalekv_adapters.infinity.generation import Infinity
from scalekv_adapters.infinity.templates import Canvas
from scalekv_adapters.infinity.vae import BSQVAE, BSQVAEConfig
from scalekv_core.errors import CheckpointError
from scalekv_core.models.weights import Weights, WeightsFormat, fill, find_weights

LONGEST_PROMPT = 512
"""Text tokens of T5, and rows of the published table for no prompt; further rows are never read."""
DROPPED = ("lvl_1L", "attn_bias_for_masking", "Infinity_visible_kvlen", "Infinity_invisible_qlen")
"""Buffers of training, which the official loader drops too."""
HALVED = ("block_chunks.", "text_proj_for_ca.", "text_proj_for_sos.")
"""What the official inference puts into half precision."""
CONVOLUTIONS = ("conv_in", "conv_out", "conv1", "conv2", "nin_shortcut")
NORMS = ("norm1", "norm2", "norm_out")


@attrs.frozen
class InfinityFormat(WeightsFormat):
    """The transformer of Infinity under its official names, the head scales in either of the two published layouts."""

    kind: ClassVar[str] = "Infinity"
    marker: ClassVar[str] = "cfg_uncond"

    def knows(self, names: Collection[str]) -> bool:
        return self.marker in names and "norm_hidden_sates.weight" not in names  # which InfinityStar has

    def normal(self, name: str, value: Tensor) -> Mapping[str, Tensor]:
        last = name.rpartition(".")[2]
        if name in DROPPED or last == "zero_k_bias":
            return {}
        if last == "scale_mul_1H11":
            return {name: value.reshape(1, -1, 1, 1)}
        return {name: value[:LONGEST_PROMPT] if name == "cfg_uncond" else value}

    def derived(self, name: str, like: Tensor) -> Tensor | None:
        return torch.zeros(like.shape) if name.endswith("zero_k_bias") else None

    def dtype(self, name: str, wanted: torch.dtype) -> torch.dtype:
        return wanted if name.startswith(HALVED) else torch.float32


@attrs.frozen
class BSQVAEFormat(WeightsFormat):
    """The VAE of Infinity, with or without the ``.conv`` and ``.norm`` that its modules have in their names."""

    kind: ClassVar[str] = "BSQ-VAE"
    marker: ClassVar[str] = "decoder.conv_out.conv.weight"
    stays_as_it_is: ClassVar[bool] = True

    def knows(self, names: Collection[str]) -> bool:
        named = self.marker in names or self.marker.replace(".conv.", ".") in names
        return named and "quant_conv.weight" not in names  # which VAR's VQVAE has

    def normal(self, name: str, value: Tensor) -> Mapping[str, Tensor]:
        return {long_name(name): value} if name.startswith(("encoder.", "decoder.")) else {}

    def derived(self, name: str, like: Tensor) -> Tensor | None:
        return 2 ** torch.arange(len(like) - 1, -1, -1) if name.endswith("lfq.mask") else None


FORMATS = (InfinityFormat(), BSQVAEFormat())
"""What is published of Infinity."""


def long_name(name: str) -> str:
    """The name of a VAE's tensor with the inner module that some checkpoints leave out.

    >>> long_name("encoder.down.0.downsample.conv.weight"), long_name("decoder.mid.block_1.norm2.norm.bias")
    ('encoder.down.0.downsample.conv.conv.weight', 'decoder.mid.block_1.norm2.norm.bias')
    """
    *module, outer, parameter = name.split(".")
    if outer in NORMS:
        return f"{name.removesuffix(parameter)}norm.{parameter}"
    if outer in CONVOLUTIONS or (outer == "conv" and module[-1] in ("downsample", "upsample")):
        return f"{name.removesuffix(parameter)}conv.{parameter}"
    return name


def load_infinity(
    path: str | PathLike[str],
    *,
    vae: BSQVAE | None = None,
    expect: str | InfinityConfig | None = None,
    canvas: Canvas | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    allow_nonfinite: bool = False,
) -> Infinity:
    """The Infinity of a checkpoint, in evaluation mode.

    Args:
        path: a .pth or .safetensors file, a bare state dict or a trainer's; or a folder of shards.
        vae: what turns its bits into images.
        expect: what the checkpoint should be: the name of a published model, such as "infinity-2b", or its sizes.
        canvas: its default aspect ratio and size; that of the expected published model by default.
        device: where to keep the weights.
        dtype: of blocks and text projections; the rest stays in float32, as in the official inference.
        allow_nonfinite: accept infinities and numbers that are none.

    Raises:
        CheckpointError: a file or shard is missing, cannot be read or holds code; it is no Infinity, another one than expected,
            or one for a VAE of other bits.
    """
    path = Path(path)
    wanted = InfinityConfig.published(expect) if isinstance(expect, str) else expect
    weights = find_weights(path, InfinityFormat(), known=FORMATS)
    config = infinity_config(weights, vae, wanted)
    if canvas is None and isinstance(expect, str):
        canvas = CANVASES[expect]
    with torch.device("meta"):
        model = Infinity(config, vae, canvas=canvas)
    return fill(model, weights, device=device, dtype=dtype, allow_nonfinite=allow_nonfinite)


def load_bsq_vae(
    path: str | PathLike[str],
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    allow_nonfinite: bool = False,
) -> BSQVAE:
    """The BSQ-VAE of a checkpoint, in evaluation mode.

    Args:
        path: a .pth or .safetensors file; a bare state dict, or under ``vae`` as published.
        device, dtype: where and how to keep the weights.
        allow_nonfinite: accept infinities and numbers that are none.

    Raises:
        CheckpointError: the file cannot be read, holds code, or is no BSQ-VAE.
    """
    weights = find_weights(Path(path), BSQVAEFormat(), known=FORMATS)
    with weights.named_in_errors():
        config = BSQVAEConfig.of_state(weights.shapes)
    with torch.device("meta"):
        model = BSQVAE(config)
    return fill(model, weights, device=device, dtype=dtype, allow_nonfinite=allow_nonfinite)


def infinity_config(weights: Weights, vae: BSQVAE | None, wanted: InfinityConfig | None) -> InfinityConfig:
    """The sizes of an Infinity, read off its weights; refused unless they are those that are wanted, and fit the VAE.

    How long a prompt may be is the file's affair: a shorter table for no prompt only means shorter prompts.
    """
    bits = vae.config.bits if vae is not None else _bits_as_wanted(weights, wanted)
    with weights.named_in_errors():
        config = InfinityConfig.of_state(weights.shapes, bits=bits)
    if wanted is not None and config != attrs.evolve(wanted, text_maxlen=config.text_maxlen):
        raise CheckpointError(
            f"checkpoint {weights.path} is {describe(config, wanted)}; you asked for {describe(wanted, config)}"
        )
    return config


def _bits_as_wanted(weights: Weights, wanted: InfinityConfig | None) -> int | None:
    """The bits of the VAE, which the file alone does not tell from a patch of several places: as expected, if that fits."""
    embedding = weights.shapes.get("word_embed.weight")
    fits = wanted is not None and embedding is not None and embedding.shape[-1] == wanted.token_bits
    return wanted.bits if wanted is not None and fits else None


def describe(config: InfinityConfig, other: InfinityConfig) -> str:
    """A model's published name, if it has one, and the sizes in which it differs from another."""
    name = next((name for name in PUBLISHED if InfinityConfig.published(name) == config), "an Infinity")
    mine, theirs = attrs.asdict(config), attrs.asdict(other)
    sizes = ", ".join(f"{key} {value}" for key, value in mine.items() if value != theirs[key] and key != "text_maxlen")
    return f"{name} of {sizes}"
