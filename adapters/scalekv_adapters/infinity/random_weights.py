"""An Infinity without its weights: random ones of the right sizes, and random text features. Images are noise; memory and
time are real."""

from __future__ import annotations

import torch
from torch import Tensor

from scalekv_adapters.infinity.config import InfinityConfig
from scalekv_adapters.infinity.generation import Infinity
from scalekv_adapters.infinity.templates import Canvas
from scalekv_adapters.infinity.vae import BSQVAE, BSQVAEConfig


def random_infinity(
    config: InfinityConfig,
    vae: BSQVAEConfig,
    *,
    canvas: Canvas,
    seed: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Infinity:
    """An Infinity and its VAE of these sizes with seeded random weights, in evaluation mode.

    It is built without memory and filled tensor by tensor, in its final dtype, so that no more is ever held than it weighs.

    Args:
        config, vae: the sizes.
        canvas: aspect ratio and size.
        seed: of the weights.
        device, dtype: where and how it runs: blocks and text projections in this dtype, the rest in float32.
    """
    generator = torch.Generator(device).manual_seed(seed)
    with torch.device("meta"):
        decoder = BSQVAE(vae)
        infinity = Infinity(config, decoder, canvas=canvas).blocks_to(dtype)
    for module in (infinity, decoder):
        module.to_empty(device=device).eval().requires_grad_(False)
        for name, tensor in module.state_dict().items():
            fill_randomly(name, tensor, generator)
    return infinity


@torch.no_grad()
def fill_randomly(name: str, tensor: Tensor, generator: torch.Generator) -> None:
    """Fills a tensor of a new model in place, so that activations stay finite at any depth."""
    if name.endswith("zero_k_bias"):
        tensor.zero_()
    elif name.endswith("lfq.mask"):
        tensor.copy_(2 ** torch.arange(len(tensor) - 1, -1, -1))
    elif name.endswith("norm.weight"):
        tensor.fill_(1)
    else:
        tensor.normal_(std=0.02, generator=generator)
