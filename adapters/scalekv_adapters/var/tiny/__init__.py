"""var-tiny: a small VAR that generates handwritten digits, shipped with its weights.

With it everything in this project can be tried in seconds, on a CPU, without a download: it has the ten scales (680 tokens),
the guidance and the state-dict names of the published models, and was trained on real data (adapters/recipes/var_tiny).
"""

from __future__ import annotations

import torch

from scalekv_adapters.shipped import shipped
from scalekv_adapters.var.config import VARConfig
from scalekv_adapters.var.generation import VAR
from scalekv_adapters.vqvae import VQVAE, VQVAEConfig
from scalekv_core.models.sampling import Sampling

__all__ = ["SAMPLING", "SIZES", "VQVAE_SIZES", "load"]

SIZES = VARConfig(depth=6, width=128, heads=4, num_classes=10, codes=256, code_width=8)
VQVAE_SIZES = VQVAEConfig(codes=256, code_width=8, base_channels=32, multipliers=(1, 2), blocks=1)
SAMPLING = Sampling(guidance=2.0)
"""The settings to generate with."""


def load(device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> VAR:
    """The shipped VAR with its VQVAE, in evaluation mode and without gradients.

    Args:
        device: where to put both.
        dtype: of the VAR; the VQVAE stays in float32, as it does for the published models.

    >>> var = load()
    >>> var.config.depth, var.config.tokens, var.vqvae.config.image_side
    (6, 680, 32)
    """
    vqvae = shipped(__name__, "vqvae", lambda sizes: VQVAE(VQVAEConfig(**sizes))).to(device)
    var = shipped(__name__, "var", lambda sizes: VAR(VARConfig(**sizes), vqvae))
    return var.to(device=device, dtype=dtype)
