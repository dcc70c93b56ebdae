"""The weights that training starts from; a published model overwrites them all.

Blocks start close to the identity: their gates begin near zero, so depth does not disturb the first steps.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from scalekv_adapters.infinity.transformer import Infinity

STD = 0.02
GATE = 1e-5  # factor on what makes gamma1 and gamma2
ADALN = 0.5  # factor on what makes the scales and shifts
HEAD = 0.02
NO_PROMPT_STD = 1.2


@torch.no_grad()
def init_weights(model: Infinity) -> None:
    """Overwrites all parameters of a new model in place, with torch's global generator."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=STD)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for table in (model.lvl_embed.weight, model.pos_start, model.text_proj_for_sos.ca.mat_q):
        nn.init.trunc_normal_(table, std=math.sqrt(1 / model.config.width / 3))
    nn.init.trunc_normal_(model.cfg_uncond, std=NO_PROMPT_STD).div_(math.sqrt(model.config.text_channels))
    model.head.weight.mul_(HEAD)
    model.head_nm.ada_lin.get_parameter("1.weight").mul_(ADALN)
    for name, weight in model.block_chunks.named_parameters():
        if name.endswith(("sa.proj.weight", "ca.proj.weight", "ffn.fc2.weight")):
            weight.div_(math.sqrt(2 * model.config.depth))
        elif name.endswith("ada_gss"):
            weight[:, :, :2].mul_(GATE)
            weight[:, :, 2:].mul_(ADALN)
