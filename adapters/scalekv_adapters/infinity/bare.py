"""Infinity without its weights: the same loop, for planning its memory and for measuring its time."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from scalekv_adapters.bare import BareFamily
from scalekv_adapters.decoding import most_decoding, most_weights
from scalekv_adapters.infinity.config import InfinityConfig
from scalekv_adapters.infinity.generation import Infinity, InfinityImages
from scalekv_adapters.infinity.prompts import PackedText
from scalekv_adapters.infinity.templates import Canvas
from scalekv_adapters.infinity.vae import BSQVAE, BSQVAEConfig
from scalekv_core.models.sampling import Sampling
from scalekv_core.models.size_bound import SizeBound

PROMPT = 64
"""Text tokens of a prompt: some sentences."""


class BareInfinity(BareFamily):
    """An Infinity and its VAE with the weights that they are made with, and prompts that say nothing."""

    def __init__(self, infinity: Infinity, sampling: Sampling) -> None:
        blocks = list(infinity.blocks)
        projections = [(block.sa, block.sa.mat_qkv.weight) for block in blocks]
        schedule = infinity.canvas.schedule
        super().__init__(infinity, infinity.vae, schedule=schedule, blocks=blocks, projections=projections)
        self.infinity = infinity
        self.sampling = sampling

    @classmethod
    def of(
        cls,
        config: InfinityConfig,
        vae: BSQVAEConfig,
        canvas: Canvas,
        sampling: Sampling,
        *,
        layers: int | None,
        device: str | torch.device,
    ) -> BareInfinity:
        """Of these sizes, in float32.

        Args:
            config, vae, canvas: the sizes.
            sampling: the sampling of the family.
            layers: in place of the config's; None leaves it.
            device: where it runs.
        """
        sizes = config if layers is None else attrs.evolve(config, depth=layers, block_chunks=1)
        with torch.device(device):
            decoder = BSQVAE(vae).eval().requires_grad_(False)
            infinity = Infinity(sizes, decoder, canvas=canvas).eval().requires_grad_(False)
        return cls(infinity, sampling)

    def batch(self, images: int, *, guidance: bool) -> InfinityImages:
        config, how = self.infinity.config, self.sampling
        length = min(PROMPT, config.text_maxlen)
        features = self.infinity.cfg_uncond.new_zeros(images * length, config.text_channels)
        return self.infinity.batch(
            PackedText(features, [length] * images),
            guidance=how.guidance if guidance else 0.0,
            guidance_at=how.guidance_at,
            top_k=how.top_k,
            top_p=how.top_p,
            temperature=how.temperature,
        )

    def decode(self, images: int) -> Tensor:
        vae, canvas = self.infinity.vae, self.infinity.canvas
        return vae.pictures(vae.empty_sum(images, canvas.grids(self.infinity.config.patch)[-1]))


def size_bound(config: InfinityConfig, vae: BSQVAEConfig, canvas: Canvas, *, text_encoder: int) -> SizeBound:
    """What an Infinity of these sizes takes at most, in float32.

    A block has 4 C^2 weights of attention to images, 4 C^2 of attention to text, and 2 r C^2 of its feed-forward network; the
    modulation is shared. While it runs, a token takes some C of input, projections and hidden layer.

    Args:
        config, vae, canvas: the sizes.
        text_encoder: numbers in its weights.
    """
    c, t = config.width, config.text_channels
    block = 8 * c**2 + 2 * config.hidden * c + 32 * c
    text = t * (8 * c + config.text_maxlen)
    tables = c * (16 * c + 4 * config.token_bits + 64)
    autoencoder = most_weights(vae.base_channels, vae.multipliers, vae.blocks)
    height, width = canvas.grids(config.patch)[-1][-2:]
    return SizeBound(
        weights=4 * (config.depth * block + text + tables + autoencoder + text_encoder),
        row=4 * (max(canvas.schedule.tokens) * (24 * c + 16 * config.token_bits) + PROMPT * (t + 8 * c)),
        image=4 * most_decoding(vae.base_channels * vae.fold**2, height * width * vae.stride**2),
    )
