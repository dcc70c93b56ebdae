"""The weights that training starts from; a published model overwrites them all.

Blocks start close to the identity: their gates begin near zero, so depth does not disturb the first steps.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from scalekv_adapters.var.transformer import VAR

STD = 0.02
GATE = 1e-5  # factor on what makes gamma1 and gamma2
ADALN = 0.5  # factor on what makes the scales and shifts
HEAD = 0.02


@torch.no_grad()
def init_weights(model: VAR) -> None:
    """Overwrites all parameters of a new model in place, with torch's global generator."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=STD)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for table in (model.class_emb.weight, model.lvl_embed.weight, model.pos_start, model.pos_1LC):
        nn.init.trunc_normal_(table, std=math.sqrt(1 / model.config.width / 3))
    model.head.weight.mul_(HEAD)
    model.head_nm.ada_lin.get_parameter("1.weight").mul_(ADALN)
    for name, weight in model.blocks.named_parameters():
        if name.endswith(("attn.proj.weight", "ffn.fc2.weight")):
            weight.div_(math.sqrt(2 * model.config.depth))
        elif name.endswith(("ada_lin.1.weight", "ada_gss")):
            _shrink_gates(weight.view(6, -1))


def _shrink_gates(six: Tensor) -> None:
    """Of six leading parts, the first two make the gates, the others scales and shifts."""
    six[:2].mul_(GATE)
    six[2:].mul_(ADALN)
