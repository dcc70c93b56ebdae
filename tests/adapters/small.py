"""Small models of both families with random weights, for what does not depend on weights."""

from __future__ import annotations

from scalekv_adapters.infinity.config import InfinityConfig
from scalekv_adapters.infinity.generation import Infinity
from scalekv_adapters.infinity.templates import Canvas
from scalekv_adapters.infinity.vae import BSQVAE, BSQVAEConfig
from scalekv_adapters.var.config import VARConfig
from scalekv_adapters.var.generation import VAR
from scalekv_adapters.vqvae import VQVAE, VQVAEConfig


def small_var(sides: tuple[int, ...] = (1, 2)) -> VAR:
    vqvae = VQVAE(VQVAEConfig(codes=8, code_width=4, base_channels=32, multipliers=(1,), blocks=1, patch_sides=sides))
    config = VARConfig(depth=6, width=8, heads=2, num_classes=10, codes=8, code_width=4, patch_sides=sides)
    return VAR(config, vqvae).eval().requires_grad_(False)


def small_infinity() -> Infinity:
    vae = BSQVAE(BSQVAEConfig(bits=4, base_channels=32, multipliers=(1,), blocks=1))
    sizes = {"depth": 6, "width": 8, "heads": 2, "bits": 4, "block_chunks": 2, "text_channels": 128, "mlp_ratio": 32}
    infinity = Infinity(InfinityConfig(**sizes, text_maxlen=4), vae, canvas=Canvas("1:1", "0.06M"))
    return infinity.eval().requires_grad_(False)
