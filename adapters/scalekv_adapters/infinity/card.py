"""Infinity by name: what the command line lists, plans and loads.

The published models want the official files, which are not moved. Any of them also runs with random weights. infinity-tiny
ships (`scalekv_adapters.infinity.tiny`).
"""

from __future__ import annotations

from pathlib import Path

import torch
from attrs import frozen

from scalekv_adapters.cards import profiles_beside
from scalekv_adapters.infinity.bare import BareInfinity, size_bound
from scalekv_adapters.infinity.checkpoint import FORMATS
from scalekv_adapters.infinity.config import CANVASES, InfinityConfig
from scalekv_adapters.infinity.files import folder_for, load_parts, parts_in, parts_of
from scalekv_adapters.infinity.generation import Infinity
from scalekv_adapters.infinity.guidance import check_sampling, rows_of
from scalekv_adapters.infinity.model import InfinityImageModel
from scalekv_adapters.infinity.random_weights import random_infinity
from scalekv_adapters.infinity.templates import ASPECTS, PIXELS, Canvas
from scalekv_adapters.infinity.vae import BSQVAEConfig
from scalekv_adapters.random_text import RandomText
from scalekv_adapters.t5 import T5_WEIGHTS
from scalekv_core.contracts.profile import AttentionProfile
from scalekv_core.models.card import ModelCard
from scalekv_core.models.sampling import Sampling
from scalekv_core.models.size_bound import SizeBound
from scalekv_core.models.weights import WeightsFormat
from scalekv_core.shapes.geometry import CacheGeometry

OFFICIAL = {
    "infinity-125m": Sampling(guidance=3.0, top_k=900, top_p=0.97, temperature=0.5),
    "infinity-2b": Sampling(guidance=3.0, top_k=900, top_p=0.97, temperature=0.5),
    "infinity-8b": Sampling(guidance=3.0, top_k=900, top_p=0.97, temperature=1.0),
}
"""The sampling of the official demonstrations. Top-k 900 keeps both values of a bit."""
VAES = {
    "infinity-125m": "infinity-vae-d16",
    "infinity-2b": "infinity-vae-d32",
    "infinity-8b": "infinity-vae-d56-f8-14-patchify",
}
"""{model: the published VAE that it was trained with}."""


PROFILES = "profile*.safetensors"


@frozen(kw_only=True)
class InfinityCard(ModelCard):
    """An Infinity: its name and its sizes.

    Attributes:
        name: that it is loaded by.
        config, vae: sizes of the transformer and of its VAE.
        canvas: its default aspect ratio and size.
        text_encoder: numbers in the weights of what reads prompts.
    """

    name: str
    config: InfinityConfig
    vae: BSQVAEConfig
    canvas: Canvas
    text_encoder: int

    def shape(self, *, aspect: str | None = None, size: str | None = None) -> CacheGeometry:
        return self.config.geometry(self.drawn_on(aspect, size), self.geometry.dtype)

    def drawn_on(self, aspect: str | None, size: str | None) -> Canvas:
        """The canvas of this aspect ratio and size; InputError if there is none."""
        own = self.canvas
        return Canvas(own.aspect if aspect is None else aspect, own.pixels if size is None else size)

    def rows_of(self, sampling: Sampling) -> int:
        return rows_of(sampling)

    def check_sampling(self, sampling: Sampling, shape: CacheGeometry) -> None:
        check_sampling(sampling, shape)

    def size_bound(self, *, aspect: str | None = None, size: str | None = None) -> SizeBound:
        return size_bound(self.config, self.vae, self.drawn_on(aspect, size), text_encoder=self.text_encoder)

    def bare(
        self,
        *,
        aspect: str | None = None,
        size: str | None = None,
        layers: int | None = None,
        device: str | torch.device = "meta",
        dtype: torch.dtype | None = None,
    ) -> BareInfinity:
        canvas = self.drawn_on(aspect, size)
        made = BareInfinity.of(self.config, self.vae, canvas, self.sampling, layers=layers, device=device)
        self.cast(made.infinity, dtype or self.geometry.dtype)
        return made

    def cast(self, infinity: Infinity, dtype: torch.dtype) -> None:
        """Puts into this dtype what the loaded model has in it: here blocks and text projections."""
        infinity.blocks_to(dtype)

    @property
    def example(self) -> str:
        return "a red circle left of a blue square"


@frozen(kw_only=True)
class PublishedInfinityCard(InfinityCard):
    """A published Infinity, loaded from the official files, or with random weights."""

    needs_weights = True
    fetches = True
    aspects = tuple(ASPECTS)
    sizes = tuple(PIXELS)

    @classmethod
    def of(cls, name: str) -> PublishedInfinityCard:
        """The card of a published model, such as "infinity-2b"; UnknownName if there is none."""
        config, canvas = InfinityConfig.published(name), CANVASES[name]
        height, width = canvas.image_size()
        return cls(
            name=name,
            summary=f"text, {width} x {height} pixels, or 14 other aspect ratios and 3 other sizes",
            weights=folder_for(name),
            geometry=config.geometry(canvas, torch.bfloat16),  # as the published code runs
            config=config,
            vae=BSQVAEConfig.published(VAES[name]),
            canvas=canvas,
            text_encoder=T5_WEIGHTS,
            sampling=OFFICIAL[name],
        )

    def text_encoder_bytes(self, dtype: torch.dtype) -> int:
        return self.text_encoder * dtype.itemsize

    @property
    def formats(self) -> tuple[WeightsFormat, ...]:
        return FORMATS

    def load(
        self,
        *,
        weights: Path | None = None,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        allow_nonfinite: bool = False,
    ) -> InfinityImageModel:
        """The model; blocks and text projections in this dtype, the rest and the VAE in float32.

        Args:
            weights: a folder with the official files, or with what ``scalekv convert`` made of them; or the transformer's
                file or folder of shards, beside which the others are. Every ``profile*.safetensors`` there is an attention
                profile, of the canvas that it was made on. None fetches the files from the hub, where no profile is.
            device, dtype: where and how it runs.

        Raises:
            CheckpointError: a file is missing, truncated, of another model, or the files do not fit each other.
            MissingExtra: no weights are given, and huggingface_hub is not installed.
            ProfileError: a profile is damaged.
        """
        parts = parts_of(self.name, weights)
        profiles = self.profiles(weights)
        infinity, encoder = load_parts(self.name, parts, device=device, dtype=dtype, allow_nonfinite=allow_nonfinite)
        return InfinityImageModel(self.name, infinity, encoder, sampling=self.sampling, profiles=profiles)

    def profiles(self, weights: Path | None = None) -> list[AttentionProfile]:
        return [] if weights is None else profiles_beside(parts_in(self.name, Path(weights)).transformer, PROFILES)

    def random(self, *, seed: int = 0, device: str = "cpu", dtype: torch.dtype = torch.float32) -> InfinityImageModel:
        infinity = random_infinity(self.config, self.vae, canvas=self.canvas, seed=seed, device=device, dtype=dtype)
        encoder = RandomText(self.config.text_channels, self.config.text_maxlen)
        return InfinityImageModel(self.name, infinity, encoder, sampling=self.sampling)
