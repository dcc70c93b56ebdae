"""VAR without its weights: the same loop, for planning its memory and for measuring its time."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from scalekv_adapters.bare import BareFamily
from scalekv_adapters.decoding import most_decoding, most_weights
from scalekv_adapters.var.config import VARConfig
from scalekv_adapters.var.generation import VAR, VARImages
from scalekv_adapters.var.transformer import Block
from scalekv_adapters.vqvae import VQVAE, VQVAEConfig
from scalekv_core.models.sampling import Sampling
from scalekv_core.models.size_bound import SizeBound


class BareVAR(BareFamily):
    """A VAR and its VQVAE with the weights that they are made with."""

    def __init__(self, var: VAR, sampling: Sampling) -> None:
        blocks = [block for block in var.blocks if isinstance(block, Block)]
        projections = [(block.attn, block.attn.mat_qkv.weight) for block in blocks]
        super().__init__(var, var.vqvae, schedule=var.config.schedule, blocks=blocks, projections=projections)
        self.var = var
        self.sampling = sampling

    @classmethod
    def of(
        cls,
        config: VARConfig,
        vqvae: VQVAEConfig,
        sampling: Sampling,
        *,
        layers: int | None,
        device: str | torch.device,
        dtype: torch.dtype,
    ) -> BareVAR:
        """Of these sizes; the transformer in this dtype, its VQVAE in float32, as when they are loaded.

        Args:
            config, vqvae: the sizes.
            sampling: the sampling of the family.
            layers: in place of the config's; None leaves it.
            device, dtype: where and how it runs.
        """
        sizes = config if layers is None else attrs.evolve(config, depth=layers)
        with torch.device(device):
            decoder = VQVAE(vqvae)
            var = VAR(sizes, decoder).to(dtype)
        decoder.eval().requires_grad_(False)
        return cls(var.eval().requires_grad_(False), sampling)

    def batch(self, images: int, *, guidance: bool) -> VARImages:
        labels = torch.zeros(images, dtype=torch.int64, device=self.var.head.weight.device)
        return VARImages(self.var, labels, self.sampling if guidance else attrs.evolve(self.sampling, guidance=0.0))

    def decode(self, images: int) -> Tensor:
        return self.var.vqvae.pictures(self.var.vqvae.empty_map(images))


def size_bound(config: VARConfig, vqvae: VQVAEConfig) -> SizeBound:
    """What a VAR of these sizes takes at most, in float32.

    A block has 4 C^2 weights of attention, 2 r C^2 of its feed-forward network and 6 C^2 of its modulation. While it runs, a
    token takes some C of input, projections and hidden layer, and some V of logits that are sorted, summed and compared.
    """
    c, v, tokens = config.width, config.codes, config.tokens
    block = (10 + 2 * config.mlp_ratio) * c**2 + 32 * c
    tables = c * (16 * c + config.num_classes + v + config.code_width + 4 * tokens) + tokens**2
    codebook = v * (vqvae.code_width + len(vqvae.patch_sides)) + 64 * vqvae.code_width**2
    autoencoder = most_weights(vqvae.base_channels, vqvae.multipliers, vqvae.blocks)
    largest = max(config.schedule.tokens)
    return SizeBound(
        weights=4 * int(config.depth * block + tables + codebook + autoencoder),
        row=4 * largest * (24 * c + 8 * v),
        image=4 * most_decoding(vqvae.base_channels, vqvae.image_side**2),
    )
