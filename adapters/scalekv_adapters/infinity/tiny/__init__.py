"""infinity-tiny: a small Infinity that generates coloured shapes from captions, shipped with its weights.

With it everything in this project can be tried for text-to-image models, on a CPU and without a download: the seven scales
of the published 0.06M schedules (521 tokens when square), aspect ratios, guidance, bit labels and the state-dict names of
the published models. How it was trained is in adapters/recipes/infinity_tiny.
"""

from __future__ import annotations

import torch

from scalekv_adapters.infinity.tiny.network import TinyInfinity
from scalekv_adapters.infinity.vae import BSQVAE, BSQVAEConfig
from scalekv_adapters.shipped import shipped
from scalekv_core.models.sampling import Sampling

__all__ = ["SAMPLING", "load"]

SAMPLING = Sampling(guidance=4.0, temperature=0.6)
"""The settings to generate with."""


def load(device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> TinyInfinity:
    """The shipped transformer with its VAE, and its text encoder, in evaluation mode and without gradients.

    Args:
        device: where to put all three.
        dtype: of the transformer; VAE and text encoder stay in float32.

    >>> tiny = load()
    >>> tiny.transformer.config.depth, tiny.transformer.canvas.schedule.total, tiny.transformer.vae.config.stride
    (6, 521, 4)
    """
    vae = shipped(__name__, "vae", lambda sizes: BSQVAE(BSQVAEConfig(**sizes))).to(device)
    model = shipped(__name__, "infinity", lambda sizes: TinyInfinity.of(sizes, vae))
    model.to(device).transformer.to(dtype)
    return model
