"""HART without its weights: the same loop, for planning its memory and for measuring its time."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from scalekv_adapters.bare import BareFamily
from scalekv_adapters.decoding import most_decoding, most_weights
from scalekv_adapters.hart.config import HARTConfig
from scalekv_adapters.hart.context import Context
from scalekv_adapters.hart.generation import HART, HARTImages
from scalekv_adapters.hart.transformer import Block
from scalekv_adapters.vqvae import VQVAE, VQVAEConfig
from scalekv_core.models.sampling import Sampling
from scalekv_core.models.size_bound import SizeBound


class BareHART(BareFamily):
    """A HART and its tokenizer with the weights that they are made with."""

    def __init__(self, hart: HART, sampling: Sampling) -> None:
        blocks = [block for block in hart.blocks if isinstance(block, Block)]
        projections = [(block.attn, block.attn.qkv_proj.weight) for block in blocks]
        super().__init__(hart, hart.tokenizer, schedule=hart.config.schedule, blocks=blocks, projections=projections)
        self.hart, self.sampling = hart, sampling

    @classmethod
    def of(
        cls,
        config: HARTConfig,
        tokenizer: VQVAEConfig,
        sampling: Sampling,
        *,
        layers: int | None,
        device: str | torch.device,
        dtype: torch.dtype,
    ) -> BareHART:
        """Of these sizes; the transformer in this dtype, its tokenizer in float32, as when they are loaded.

        Args:
            config, tokenizer: the sizes.
            sampling: the sampling of the family.
            layers: in place of the config's; None leaves it.
            device, dtype: where and how it runs.
        """
        sizes = config if layers is None else attrs.evolve(config, depth=layers)
        with torch.device(device):
            decoder = VQVAE(tokenizer)
            hart = HART(sizes, decoder).to(dtype)
        decoder.eval().requires_grad_(False)
        return cls(hart.eval().requires_grad_(False), sampling)

    def batch(self, images: int, *, guidance: bool) -> HARTImages:
        config, weight = self.hart.config, self.hart.head.weight
        features = torch.zeros(images, config.context_tokens, config.context_width, device=weight.device)
        real = torch.ones(images, config.context_tokens, dtype=torch.bool, device=weight.device)
        sampling = self.sampling if guidance else attrs.evolve(self.sampling, guidance=0.0)
        return HARTImages(self.hart, Context(features, real), sampling)

    def decode(self, images: int) -> Tensor:
        return self.hart.tokenizer.pictures(self.hart.tokenizer.empty_map(images))


def size_bound(config: HARTConfig, tokenizer: VQVAEConfig) -> SizeBound:
    """What a HART of these sizes takes at most, in float32.

    A block has 4 C^2 weights of attention, 3 C h of its feed-forward network and at most 6 C^2 of its modulation. While it runs,
    a token takes some C of input, projections, rotation and hidden layer, and some V of logits that are sorted, summed and
    compared; the diffusion takes some of its own width.
    """
    c, d, v = config.width, config.diffusion_width, config.codes
    block = 10 * c**2 + 3 * c * config.hidden + 16 * c
    outside = c * (3 * c + v + config.context_width + config.code_width + 300 + len(config.patch_sides))
    diffusion = d * (config.diffusion_depth * 6 * d + 4 * d + c + 512 + 4 * config.code_width)
    codebook = v * (tokenizer.code_width + len(tokenizer.patch_sides)) + 64 * tokenizer.code_width**2
    autoencoder = most_weights(tokenizer.base_channels, tokenizer.multipliers, tokenizer.blocks)
    largest = max(config.schedule.tokens)
    return SizeBound(
        weights=4 * int(config.depth * block + outside + diffusion + codebook + autoencoder),
        row=4 * largest * (32 * c + 4 * config.hidden + 8 * v + 24 * d),
        image=4 * most_decoding(tokenizer.base_channels, tokenizer.image_side**2),
    )
