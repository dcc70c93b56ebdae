"""Tiny VARs with random weights, for the adapters whose models do not come with theirs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from scalekv_adapters.var.config import VARConfig
from scalekv_adapters.var.transformer import VAR
from scalekv_adapters.var.vqvae import VQVAE, VQVAEConfig
from scalekv_core.testing import Specimen
from tests.adapters.var.official_standin import StandInVAR

SIDES = (1, 2, 3, 4)


def small_var() -> VAR:
    """A VAR of two layers and three heads, always the same one.

    Its weights are drawn anew: an untrained VAR begins with attention switched off, and would notice nothing.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vqvae = VQVAE(
            VQVAEConfig(codes=16, code_width=4, base_channels=32, multipliers=(1, 1), blocks=1, patch_sides=SIDES)
        )
        config = VARConfig(depth=2, width=24, heads=3, num_classes=10, codes=16, code_width=4, patch_sides=SIDES)
        var = VAR(config, vqvae).eval().requires_grad_(False)
        for parameter in var.parameters():
            parameter.normal_(std=0.1)
        return var


def small_official_var() -> nn.Module:
    """The same with the structure of the official object."""
    return StandInVAR(small_var()).eval().requires_grad_(False)


def draw_ours(model: VAR, rows: int, seed: int) -> list[Tensor]:
    """Images, tokens and logits of one batch."""
    drawn = model.generate([3] * rows, seeds=range(seed, seed + rows), guidance=2.0, keep_logits=True)
    return [drawn.images, *drawn.tokens, *(drawn.logits or ())]


def draw_official(model: nn.Module, rows: int, seed: int) -> list[Tensor]:
    """Images of one batch, as the official method draws them."""
    return [model.autoregressive_infer_cfg(B=rows, label_B=torch.tensor([3] * rows), g_seed=seed, cfg=2.0, top_k=1)]


SPECIMENS = {
    "adapter.var": Specimen(load=small_var, draw=draw_ours),
    "adapter.var-official": Specimen(load=small_official_var, draw=draw_official),
}
