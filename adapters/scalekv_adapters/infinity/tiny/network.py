"""What infinity-tiny is made of: its sizes, and the transformer with the text encoder that is trained beside it.

The transformer is the published one at another size: same code, same names of weights, same flags. Only the weights that
training starts from are larger, since at this width the published ones would hardly learn anything in an hour.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import nn

from scalekv_adapters.infinity.config import InfinityConfig
from scalekv_adapters.infinity.templates import Canvas
from scalekv_adapters.infinity.tiny.words import WordEncoder
from scalekv_adapters.infinity.transformer import Infinity
from scalekv_adapters.infinity.vae import BSQVAE, BSQVAEConfig

__all__ = ["ASPECTS", "PIXELS", "SIZES", "SQUARE", "TEXT_DEPTH", "VAE_SIZES", "TinyInfinity", "start_weights"]

PIXELS = "0.06M"
"""The size of picture, in the words of the published table; with a stride of 4 instead of 16 it is 64 x 64."""

SQUARE = Canvas("1:1", PIXELS)

ASPECTS: Mapping[str, float] = {"1:1": 0.7, "3:4": 0.15, "4:3": 0.15}
"""{aspect ratio, width:height, that it learns to draw: how often it is shown}."""

VAE_SIZES = BSQVAEConfig(bits=16, base_channels=32, multipliers=(1, 2), blocks=1, fold=2)
SIZES = InfinityConfig(depth=6, width=128, heads=4, bits=16, text_channels=256, text_maxlen=16, block_chunks=2)
TEXT_DEPTH = 3


class TinyInfinity(nn.Module):
    """The transformer and its text encoder; what is trained, averaged and shipped as one."""

    def __init__(
        self, sizes: InfinityConfig = SIZES, *, text_depth: int = TEXT_DEPTH, vae: BSQVAE | None = None
    ) -> None:
        super().__init__()
        self.transformer = Infinity(sizes, vae, canvas=SQUARE)
        self.text = WordEncoder(sizes.text_channels, text_depth)


@torch.no_grad()
def start_weights(transformer: Infinity) -> None:
    """Overwrites the weights that training starts from: variance is kept by every layer, and every gate is open."""
    for module in transformer.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
    for table in (transformer.lvl_embed.weight, transformer.pos_start):
        nn.init.normal_(table, std=0.5)
    for query in (transformer.text_proj_for_sos.ca.mat_q, transformer.cfg_uncond):
        nn.init.normal_(query)
    transformer.word_embed.weight.mul_(2)
    transformer.head.weight.mul_(0.1)
    for condition in (transformer.head_nm.ada_lin, transformer.shared_ada_lin):
        condition.get_parameter("1.weight").mul_(0.2)
    for name, weight in transformer.block_chunks.named_parameters():
        if name.endswith(("sa.proj.weight", "ca.proj.weight", "ffn.fc2.weight")):
            weight.div_(math.sqrt(2 * transformer.config.depth))
        elif name.endswith("ada_gss"):
            weight.zero_()[:, :, :2] = 1
        elif name.endswith("scale_mul_1H11"):
            weight.fill_(math.log(8))
