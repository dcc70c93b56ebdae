"""The weights that training starts from: variance is kept by every layer. Those of the published recipe are smaller, and at this
width would hardly learn anything in an hour."""

from __future__ import annotations

import math

import torch
from torch import nn

from scalekv_adapters.infinitystar.generation import InfinityStar


@torch.no_grad()
def start_weights(star: InfinityStar) -> None:
    """Overwrites the weights that training starts from."""
    for module in star.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    nn.init.normal_(star.cfg_uncond)
    nn.init.normal_(star.word_embed.bias, std=0.5)
    star.word_embed.weight.mul_(4)
    for head in (star.head, star.semantic_head2):
        head.weight.mul_(0.1)
    for name, weight in star.block_chunks.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            weight.div_(math.sqrt(2 * star.config.depth))
        elif name.endswith(("q_norm.weight", "k_norm.weight")):
            weight.fill_(1.5)
