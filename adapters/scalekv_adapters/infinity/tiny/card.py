"""infinity-tiny by name: what the command line lists, loads and runs."""

from __future__ import annotations

from pathlib import Path

import torch
from attrs import field, frozen

from scalekv_adapters.cards import SHIPS, ShippedCard, profiles_beside
from scalekv_adapters.infinity.card import PROFILES, InfinityCard
from scalekv_adapters.infinity.config import InfinityConfig
from scalekv_adapters.infinity.generation import Infinity
from scalekv_adapters.infinity.model import InfinityImageModel
from scalekv_adapters.infinity.templates import Canvas
from scalekv_adapters.infinity.tiny import SAMPLING, load
from scalekv_adapters.infinity.tiny.network import ASPECTS, SIZES, SQUARE, TEXT_DEPTH, VAE_SIZES
from scalekv_adapters.infinity.tiny.words import WordEncoder, most_words
from scalekv_adapters.infinity.vae import BSQVAEConfig
from scalekv_core.contracts.profile import AttentionProfile
from scalekv_core.memory.dry_run import module_bytes
from scalekv_core.models.card import ModelCard
from scalekv_core.models.sampling import Sampling
from scalekv_core.shapes.geometry import CacheGeometry


@frozen(kw_only=True)
class TinyInfinityCard(InfinityCard, ShippedCard):
    """infinity-tiny, which ships with its weights, its text encoder and a profile for each aspect ratio."""

    name: str = "infinity-tiny"
    config: InfinityConfig = SIZES
    vae: BSQVAEConfig = VAE_SIZES
    canvas: Canvas = SQUARE
    text_encoder: int = most_words(SIZES.text_channels, TEXT_DEPTH)
    summary: str = "coloured shapes from captions, 64 x 64 pixels, 3:4 and 4:3 too; generates in seconds on a CPU"
    weights: str = SHIPS
    geometry: CacheGeometry = field(factory=lambda: SIZES.geometry(SQUARE))
    sampling: Sampling = SAMPLING

    aspects = ASPECTS

    def drawn_on(self, aspect: str | None, size: str | None) -> Canvas:
        ModelCard.shape(self, aspect=aspect, size=size)  # refuses other shapes
        return InfinityCard.drawn_on(self, aspect, size)

    def text_encoder_bytes(self, dtype: torch.dtype) -> int:
        with torch.device("meta"):
            return module_bytes(WordEncoder(SIZES.text_channels, TEXT_DEPTH))

    def cast(self, infinity: Infinity, dtype: torch.dtype) -> None:
        infinity.to(dtype)  # every weight, as `load` does

    def shipped(self, device: str, dtype: torch.dtype) -> InfinityImageModel:
        loaded, profiles = load(device, dtype), self.profiles()
        return InfinityImageModel(self.name, loaded.transformer, loaded.text, sampling=self.sampling, profiles=profiles)

    @property
    def study(self) -> Path:
        return Path(__file__).with_name("study.sqlite")

    def profiles(self, weights: Path | None = None) -> list[AttentionProfile]:
        return profiles_beside(Path(__file__), PROFILES)

    def accepts(self, prompt: str) -> bool:
        return any(letter.isalpha() for letter in prompt)
