"""var-tiny by name: what the command line lists, loads and generates with."""

from __future__ import annotations

from pathlib import Path

import torch
from attrs import field, frozen

from scalekv_adapters.var.bare import BareVAR, size_bound
from scalekv_adapters.var.model import VARImageModel, check_sampling, profiles_beside
from scalekv_adapters.var.tiny import SAMPLING, SIZES, VQVAE_SIZES, load
from scalekv_core.contracts.profile import AttentionProfile
from scalekv_core.errors import InputError
from scalekv_core.models.card import ModelCard
from scalekv_core.models.image_model import ImageModel
from scalekv_core.models.sampling import Sampling
from scalekv_core.models.size_bound import SizeBound
from scalekv_core.shapes.geometry import CacheGeometry

TINY = "var-tiny"


@frozen(kw_only=True)
class TinyVARCard(ModelCard):
    """var-tiny, which ships with its weights and its profile."""

    summary: str = "handwritten digits, 32 x 32 pixels; generated in seconds on a CPU"
    weights: str = "ship with scalekv"
    geometry: CacheGeometry = field(factory=SIZES.geometry)
    sampling: Sampling = field(default=SAMPLING)

    def load(
        self,
        *,
        weights: Path | None = None,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        allow_nonfinite: bool = False,
    ) -> ImageModel:
        """The model; the transformer in this dtype, its VQVAE in float32.

        Raises:
            InputError: weights are given.
        """
        if weights is not None:
            raise InputError(f"model {TINY!r} ships with its weights; leave out --weights (got {weights})")
        return VARImageModel(
            TINY, load(device, dtype), sampling=self.sampling, profile=self.profile_of(self.geometry.schedule)
        )

    def accepts(self, prompt: str) -> bool:
        return prompt.strip().isdecimal()

    @property
    def example(self) -> str:
        return "3"

    def profiles(self, weights: Path | None = None) -> list[AttentionProfile]:
        return profiles_beside(Path(__file__))

    def check_sampling(self, sampling: Sampling, shape: CacheGeometry) -> None:
        check_sampling(TINY, sampling)

    def size_bound(self, *, aspect: str | None = None, size: str | None = None) -> SizeBound:
        return size_bound(SIZES, VQVAE_SIZES)

    def bare(
        self,
        *,
        aspect: str | None = None,
        size: str | None = None,
        layers: int | None = None,
        device: str | torch.device = "meta",
        dtype: torch.dtype | None = None,
    ) -> BareVAR:
        self.shape(aspect=aspect, size=size)
        return BareVAR.of(
            SIZES,
            VQVAE_SIZES,
            self.sampling,
            layers=layers,
            device=device,
            dtype=dtype or self.geometry.dtype,
        )
