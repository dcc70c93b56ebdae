"""The sizes of an Infinity transformer, and those that were published.

They stand apart from the model so that a plan can be made, or a checkpoint judged, without building anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isqrt, prod
from typing import Any

import attrs
import torch
from torch import Tensor

from scalekv_adapters.infinity.templates import Canvas
from scalekv_adapters.sizes import positive
from scalekv_core.errors import CheckpointError, InputError, unknown_name
from scalekv_core.models.weights import numbered, shape_of
from scalekv_core.shapes.geometry import CacheGeometry

PUBLISHED: dict[str, dict[str, Any]] = {
    "infinity-125m": {"depth": 12, "width": 768, "heads": 8, "bits": 16, "block_chunks": 4},
    "infinity-2b": {"depth": 32, "width": 2048, "heads": 16, "bits": 32, "block_chunks": 8},
    "infinity-8b": {"depth": 40, "width": 3584, "heads": 28, "bits": 14, "block_chunks": 8, "patch": 2},
}
CANVASES = {
    "infinity-125m": Canvas("1:1", "0.06M"),
    "infinity-2b": Canvas("1:1", "1M"),
    "infinity-8b": Canvas("1:1", "1M"),
}
"""{published model: its default aspect ratio and size}."""

MAX_SCALES = 15
"""Rows of the published table of scale embeddings."""
FFN_MULTIPLE = 256


def _pool_heads(config: InfinityConfig) -> int:
    per_head = 64 if config.width > 4096 else 128
    return max(1, config.text_channels // per_head)


@attrs.frozen(kw_only=True)
class InfinityConfig:
    """Sizes of an Infinity transformer.

    Attributes:
        depth, width, heads: blocks, channels, heads of each block's attention.
        bits: d, channels of the VAE, one bit each.
        patch: places of the VAE's map, along each side, whose bits one token holds.
        text_channels: width of the text features.
        text_maxlen: the longest prompt, in text tokens.
        block_chunks: in how many groups the blocks are listed; it shows in the names of the weights only.
        mlp_ratio: width of the feed-forward networks' hidden layer, relative to the model's, before rounding.
        pool_heads: heads of the attention that sums a prompt up; by default one per 128 text channels.

    >>> InfinityConfig.published("infinity-8b").token_bits
    56

    Raises:
        InputError: a size below 1, or one that does not divide another.
    """

    depth: int = attrs.field(validator=positive)
    width: int = attrs.field(validator=positive)
    heads: int = attrs.field(validator=positive)
    bits: int = attrs.field(validator=positive)
    patch: int = attrs.field(default=1, validator=positive)
    text_channels: int = attrs.field(default=2048, validator=positive)
    text_maxlen: int = attrs.field(default=512, validator=positive)
    block_chunks: int = attrs.field(default=1, validator=positive)
    mlp_ratio: float = 4.0
    pool_heads: int = attrs.field(default=attrs.Factory(_pool_heads, takes_self=True), validator=positive)

    def __attrs_post_init__(self) -> None:
        if self.width % (4 * self.heads):
            raise InputError(
                f"InfinityConfig: width {self.width} over {self.heads} heads is not divisible by 4, as "
                "rotations by row and column need"
            )
        if self.depth % self.block_chunks:
            raise InputError(f"InfinityConfig: depth {self.depth} is not divisible by {self.block_chunks} block_chunks")
        if self.width % self.pool_heads:
            raise InputError(f"InfinityConfig: width {self.width} is not divisible by {self.pool_heads} pool_heads")

        if not self.hidden:
            raise InputError(
                f"InfinityConfig: width {self.width} times mlp_ratio {self.mlp_ratio} is rounded to a multiple of "
                f"{FFN_MULTIPLE}, here 0; give a larger mlp_ratio"
            )

    @classmethod
    def published(cls, name: str) -> InfinityConfig:
        """The sizes of a published model, by its name, such as "infinity-2b".

        Raises:
            UnknownName: there is no such model.
        """
        if name not in PUBLISHED:
            raise unknown_name("published Infinity", name, PUBLISHED)
        return cls(**PUBLISHED[name])

    @classmethod
    def of_state(cls, state: Mapping[str, Tensor], *, bits: int | None = None) -> InfinityConfig:
        """The sizes that a state dict with the official names has.

        Args:
            state: names and tensors.
            bits: of the VAE beside it. A transformer alone does not tell 56 bits from a patch of 2 x 2 places with 14;
                without this it is taken for the published model of its sizes, if there is one, and else for unpatched.

        Raises:
            CheckpointError: it is no complete Infinity, or one for a VAE of other bits.
        """
        width, token_bits = shape_of(state, "word_embed.weight", 2)
        text_maxlen, text_channels = shape_of(state, "cfg_uncond", 2)
        hidden, _ = shape_of(state, "block_chunks.0.module.0.ffn.fc1.weight", 2)
        chunks = numbered(state, "block_chunks.")
        sizes: dict[str, Any] = {
            "depth": chunks * numbered(state, "block_chunks.0.module."),
            "width": width,
            "heads": prod(shape_of(state, "block_chunks.0.module.0.sa.scale_mul_1H11", 4)),
            "block_chunks": chunks,
            "text_channels": text_channels,
            "text_maxlen": text_maxlen,
            "mlp_ratio": hidden / width,
            "pool_heads": shape_of(state, "text_proj_for_sos.ca.mat_q", 3)[1],
        }
        return cls(**sizes, **_bits_and_patch(sizes, token_bits, bits))

    @property
    def head_dim(self) -> int:
        """D, width of a head."""
        return self.width // self.heads

    @property
    def token_bits(self) -> int:
        """Bits of one token; the transformer gives each of them two logits."""
        return self.bits * self.patch**2

    @property
    def hidden(self) -> int:
        """Width of the hidden layer of the feed-forward networks."""
        return round(self.width * self.mlp_ratio / FFN_MULTIPLE) * FFN_MULTIPLE

    def geometry(self, canvas: Canvas, dtype: torch.dtype = torch.float32) -> CacheGeometry:
        """The shape of its cache for images of this canvas, one row, where attention reads this dtype.

        Keys of the unmodified cache are those of the published code, which keeps them in float32 whatever attention reads.
        """
        return CacheGeometry(
            schedule=canvas.schedule,
            layers=self.depth,
            heads=self.heads,
            head_dim=self.head_dim,
            dtype=dtype,
            unmodified_key_dtype=torch.float32,
        )


def _bits_and_patch(sizes: Mapping[str, Any], token_bits: int, bits: int | None) -> dict[str, int]:
    """The VAE's bits, and the patch that makes so many bits of a token out of them."""
    if bits is None:
        published = (InfinityConfig.published(name) for name in PUBLISHED)
        alike = [
            c for c in published if (c.depth, c.width, c.token_bits) == (sizes["depth"], sizes["width"], token_bits)
        ]
        bits = alike[0].bits if alike else token_bits
    patch = isqrt(token_bits // bits)
    if bits * patch**2 != token_bits:
        raise CheckpointError(
            f"its {token_bits} bits per token are not a square number times the VAE's {bits}; give it the VAE that it was "
            "trained with"
        )
    return {"bits": bits, "patch": patch}
