"""The optimisers of the small transformers: Muon for the matrices between hidden layers, AdamW for everything else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from recipes.training import LoopOptions
from scalekv_core.errors import MissingExtra


def by_muon(model: nn.Module, options: LoopOptions, *, hidden: Sequence[str]) -> Sequence[torch.optim.Optimizer]:
    """Muon for the matrices whose names hold one of these words, AdamW at half the learning rate for everything else.

    Raises:
        MissingExtra: this PyTorch has no Muon.
    """
    if not hasattr(torch.optim, "Muon"):
        raise MissingExtra(f"this training needs PyTorch 2.9 or newer, for Muon; this is {torch.__version__}")
    matrices = {
        name: weight
        for name, weight in model.named_parameters()
        if weight.dim() == 2 and any(part in name for part in hidden)
    }
    rest = [weight for name, weight in model.named_parameters() if name not in matrices]
    muon = torch.optim.Muon(
        matrices.values(), lr=options.peak, weight_decay=options.weight_decay, adjust_lr_fn="match_rms_adamw"
    )
    group: dict[str, Any] = {"params": rest, "share": 0.5}
    return muon, torch.optim.AdamW([group], lr=options.peak, betas=(0.9, 0.98), weight_decay=0.0)
