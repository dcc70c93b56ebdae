"""var-tiny by name: what the command line lists, loads and generates with."""

from __future__ import annotations

from pathlib import Path

import torch
from attrs import field, frozen

from scalekv_adapters.cards import SHIPS, ShippedCard, profiles_beside
from scalekv_adapters.var.card import PROFILE, VARCard
from scalekv_adapters.var.config import VARConfig
from scalekv_adapters.var.model import VARImageModel
from scalekv_adapters.var.tiny import SAMPLING, SIZES, VQVAE_SIZES, load
from scalekv_adapters.vqvae import VQVAEConfig
from scalekv_core.contracts.profile import AttentionProfile
from scalekv_core.models.sampling import Sampling
from scalekv_core.shapes.geometry import CacheGeometry


@frozen(kw_only=True)
class TinyVARCard(VARCard, ShippedCard):
    """var-tiny, which ships with its weights and its profile."""

    name: str = "var-tiny"
    config: VARConfig = SIZES
    vqvae: VQVAEConfig = VQVAE_SIZES
    summary: str = "handwritten digits, 32 x 32 pixels; generated in seconds on a CPU"
    weights: str = SHIPS
    geometry: CacheGeometry = field(factory=SIZES.geometry)
    sampling: Sampling = SAMPLING

    def shipped(self, device: str, dtype: torch.dtype) -> VARImageModel:
        profile = self.profile_of(self.geometry.schedule)
        return VARImageModel(self.name, load(device, dtype), sampling=self.sampling, profile=profile)

    def accepts(self, prompt: str) -> bool:
        return prompt.strip().isdecimal()

    @property
    def example(self) -> str:
        return "3"

    @property
    def study(self) -> Path:
        return Path(__file__).with_name("study.sqlite")

    def profiles(self, weights: Path | None = None) -> list[AttentionProfile]:
        return profiles_beside(Path(__file__), PROFILE)
