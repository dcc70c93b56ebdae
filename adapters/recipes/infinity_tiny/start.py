"""The weights that training starts from. They are larger than those of the published recipe, which at this width would hardly
learn anything in an hour."""

from __future__ import annotations

import math

import torch
from torch import nn

from scalekv_adapters.infinity.generation import Infinity


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
