"""What infinity-tiny is made of: its sizes, and the transformer with the text encoder that was trained beside it.

The transformer is the published one at another size: same code, same names of weights, same flags.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from scalekv_adapters.infinity.config import InfinityConfig
from scalekv_adapters.infinity.generation import Infinity
from scalekv_adapters.infinity.templates import Canvas
from scalekv_adapters.infinity.tiny.words import WordEncoder
from scalekv_adapters.infinity.vae import BSQVAE, BSQVAEConfig

__all__ = ["ASPECTS", "PIXELS", "SIZES", "SQUARE", "TEXT_DEPTH", "VAE_SIZES", "TinyInfinity"]

PIXELS = "0.06M"
"""The size of picture, in the words of the published table; with a stride of 4 instead of 16 it is 64 x 64."""

SQUARE = Canvas("1:1", PIXELS)

ASPECTS = ("1:1", "3:4", "4:3")
"""Aspect ratios, width:height, that it learnt."""

VAE_SIZES = BSQVAEConfig(bits=16, base_channels=32, multipliers=(1, 2), blocks=1, fold=2)
SIZES = InfinityConfig(depth=6, width=128, heads=4, bits=16, text_channels=256, text_maxlen=16, block_chunks=2)
TEXT_DEPTH = 3


class TinyInfinity(nn.Module):
    """The transformer and its text encoder; they are trained, averaged and shipped as one."""

    def __init__(
        self, sizes: InfinityConfig = SIZES, *, text_depth: int = TEXT_DEPTH, vae: BSQVAE | None = None
    ) -> None:
        super().__init__()
        self.transformer = Infinity(sizes, vae, canvas=SQUARE)
        self.text = WordEncoder(sizes.text_channels, text_depth)

    @classmethod
    def of(cls, sizes: dict[str, Any], vae: BSQVAE) -> TinyInfinity:
        """Of the sizes in the header of the shipped file."""
        transformer = {name: value for name, value in sizes.items() if name != "text_depth"}
        return cls(InfinityConfig(**transformer), text_depth=sizes["text_depth"], vae=vae)
