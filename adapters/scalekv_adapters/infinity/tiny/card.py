"""infinity-tiny by name: what the command line lists, loads and runs."""

from __future__ import annotations

from pathlib import Path

import torch
from attrs import field, frozen

from scalekv_adapters.infinity.bare import BareInfinity, size_bound
from scalekv_adapters.infinity.guidance import check_sampling, rows_of
from scalekv_adapters.infinity.model import InfinityImageModel
from scalekv_adapters.infinity.templates import Canvas
from scalekv_adapters.infinity.tiny import SAMPLING, load
from scalekv_adapters.infinity.tiny.network import ASPECTS, PIXELS, SIZES, SQUARE, TEXT_DEPTH, VAE_SIZES
from scalekv_adapters.infinity.tiny.words import WordEncoder, most_words
from scalekv_core.contracts.profile import AttentionProfile
from scalekv_core.errors import InputError
from scalekv_core.memory.dry_run import module_bytes
from scalekv_core.models.card import ModelCard
from scalekv_core.models.image_model import ImageModel
from scalekv_core.models.sampling import Sampling
from scalekv_core.models.size_bound import SizeBound
from scalekv_core.shapes.geometry import CacheGeometry

TINY = "infinity-tiny"


@frozen(kw_only=True)
class TinyInfinityCard(ModelCard):
    """infinity-tiny, which ships with its weights, its text encoder and a profile for each aspect ratio."""

    summary: str = "coloured shapes from captions, 64 x 64 pixels, 3:4 and 4:3 too; generates in seconds on a CPU"
    weights: str = "ship with scalekv"
    geometry: CacheGeometry = field(factory=lambda: SIZES.geometry(SQUARE))
    sampling: Sampling = SAMPLING

    aspects = ASPECTS

    def shape(self, *, aspect: str | None = None, size: str | None = None) -> CacheGeometry:
        ModelCard.shape(self, aspect=aspect, size=size)  # refuses other shapes
        return SIZES.geometry(Canvas(aspect or SQUARE.aspect, PIXELS))

    def text_encoder_bytes(self, dtype: torch.dtype) -> int:
        with torch.device("meta"):
            return module_bytes(WordEncoder(SIZES.text_channels, TEXT_DEPTH))

    def size_bound(self, *, aspect: str | None = None, size: str | None = None) -> SizeBound:
        canvas = Canvas(aspect or SQUARE.aspect, PIXELS)
        return size_bound(SIZES, VAE_SIZES, canvas, text_encoder=most_words(SIZES.text_channels, TEXT_DEPTH))

    def bare(
        self,
        *,
        aspect: str | None = None,
        size: str | None = None,
        layers: int | None = None,
        device: str | torch.device = "meta",
        dtype: torch.dtype | None = None,
    ) -> BareInfinity:
        self.shape(aspect=aspect, size=size)
        made = BareInfinity.of(
            SIZES,
            VAE_SIZES,
            Canvas(aspect or SQUARE.aspect, PIXELS),
            self.sampling,
            layers=layers,
            device=device,
            dtype=torch.float32,
        )
        made.infinity.to(dtype or self.geometry.dtype)  # every weight, as `load` does
        return made

    def load(
        self,
        *,
        weights: Path | None = None,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        allow_nonfinite: bool = False,
    ) -> ImageModel:
        """The model; the transformer in this dtype, its VAE and text encoder in float32.

        Raises:
            InputError: weights are given.
        """
        if weights is not None:
            raise InputError(f"model {TINY!r} ships with its weights; leave out --weights (got {weights})")
        loaded = load(device, dtype)
        profiles = self.profiles()
        return InfinityImageModel(TINY, loaded.transformer, loaded.text, sampling=self.sampling, profiles=profiles)

    def profiles(self, weights: Path | None = None) -> list[AttentionProfile]:
        return [shipped_profile(aspect) for aspect in ASPECTS]

    def rows_of(self, sampling: Sampling) -> int:
        return rows_of(sampling)

    def check_sampling(self, sampling: Sampling, shape: CacheGeometry) -> None:
        check_sampling(sampling, shape)

    def accepts(self, prompt: str) -> bool:
        return any(letter.isalpha() for letter in prompt)

    @property
    def example(self) -> str:
        return "a red circle left of a blue square"


def shipped_profile(aspect: str) -> AttentionProfile:
    """The shipped attention profile for pictures of this aspect ratio, one of those that it learnt."""
    return AttentionProfile.load(Path(__file__).with_name(f"profile-{aspect.replace(':', 'x')}.safetensors"))
