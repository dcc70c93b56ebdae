"""The weights that training starts from; a published model overwrites them all.

Blocks start close to the identity: their gates begin near zero, so depth does not disturb the first steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

STD = 0.02
GATE = 1e-5  # factor on what makes gamma1 and gamma2
ADALN = 0.5  # factor on what makes the scales and shifts
HEAD = 0.02


@torch.no_grad()
def init_near_identity(
    model: nn.Module, blocks: nn.Module, *, tables: Iterable[Tensor], depth: int, width: int
) -> None:
    """Overwrites the linear layers and tables of a new model in place, with torch's global generator.

    Args:
        model: with a head (`head`) and the norm before it (`head_nm`).
        blocks: all of its blocks.
        tables: learnt embeddings of positions, scales, classes.
        depth, width: how many blocks follow each other, and their channels.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=STD)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for table in tables:
        nn.init.trunc_normal_(table, std=math.sqrt(1 / width / 3))
    model.get_parameter("head.weight").mul_(HEAD)
    model.get_parameter("head_nm.ada_lin.1.weight").mul_(ADALN)
    for name, weight in blocks.named_parameters():
        if name.endswith((".proj.weight", "ffn.fc2.weight")):
            weight.div_(math.sqrt(2 * depth))
        elif name.endswith(("ada_lin.1.weight", "ada_gss")):
            _shrink_gates(weight.view(6, -1))


def _shrink_gates(six: Tensor) -> None:
    """Of six leading parts, the first two make the gates, the others scales and shifts."""
    six[:2].mul_(GATE)
    six[2:].mul_(ADALN)
