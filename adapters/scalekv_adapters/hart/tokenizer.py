"""What HART's tokenizer says of an image: the codes of its maps, and what they leave over at the last one."""

from __future__ import annotations

import torch
from torch import Tensor

from scalekv_adapters.vqvae import VQVAE


@torch.no_grad()
def hybrid_encode(tokenizer: VQVAE, images: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
    """Tokens (B, n_k) of every scale, and (B, n, d) what is left before the last map.

    The residual diffusion learns the latter minus the codes of the last map. The decoder shows the features themselves, so that
    both together lose nothing.

    Args:
        tokenizer: with the maps of the model.
        images: (B, 3, H, W) in [-1, 1].
    """
    features = tokenizer.encode_features(images)
    tokens = tokenizer.quantize_features(features)
    left = features - tokenizer.f_hats(tokens[:-1])[-1]
    return tokens, left.flatten(2).mT
