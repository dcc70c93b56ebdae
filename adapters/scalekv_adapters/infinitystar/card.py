"""InfinityStar by name: what the command line lists, plans and loads, with the official files or with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import torch
from attrs import frozen

from scalekv_adapters.cards import profiles_beside
from scalekv_adapters.infinitystar.bare import BareInfinityStar, size_bound
from scalekv_adapters.infinitystar.checkpoint import FORMATS, load_infinitystar
from scalekv_adapters.infinitystar.config import InfinityStarConfig
from scalekv_adapters.infinitystar.files import FOLDER, parts_of
from scalekv_adapters.infinitystar.guidance import rows_of
from scalekv_adapters.infinitystar.published import (
    ASPECT,
    SAMPLING,
    SIZE,
    TEXT_TOKENS,
    PublishedInfinityStar,
    check_sampling,
    preset_of,
    pyramids_of,
)  # fmt: skip
from scalekv_adapters.infinitystar.random_weights import random_infinitystar
from scalekv_adapters.infinitystar.templates import RATIOS, SETTINGS
from scalekv_adapters.infinitystar.tokenizer_checkpoint import load_video_tokenizer
from scalekv_adapters.infinitystar.tokenizer_config import VideoTokenizerConfig
from scalekv_adapters.random_text import RandomText
from scalekv_adapters.t5 import T5_WEIGHTS, T5Encoder
from scalekv_core.contracts.profile import AttentionProfile
from scalekv_core.models.card import ModelCard
from scalekv_core.models.sampling import Sampling
from scalekv_core.models.size_bound import SizeBound
from scalekv_core.models.weights import WeightsFormat
from scalekv_core.shapes.geometry import CacheGeometry

NAME = "infinitystar-8b"
PROFILES = "profile*.safetensors"
FPS = 16.0


@frozen(kw_only=True)
class InfinityStarCard(ModelCard):
    """The published InfinityStar, loaded from the official files, or with random weights.

    Attributes:
        name: that it is loaded by.
        config, tokenizer: sizes of the transformer and of its tokenizer.
    """

    needs_weights = True
    fetches = True
    aspects: ClassVar[tuple[str, ...]] = (ASPECT, *(ratio for ratio in RATIOS if ratio != ASPECT))
    sizes: ClassVar[tuple[str, ...]] = SETTINGS

    name: str
    config: InfinityStarConfig
    tokenizer: VideoTokenizerConfig

    @classmethod
    def of(cls) -> InfinityStarCard:
        """The card of the published model."""
        config = InfinityStarConfig()
        return cls(
            name=NAME,
            summary="text to clips of 5 or 10 seconds, or to images, 480p or 720p, 16 frames a second, 15 aspect ratios",
            weights=FOLDER,
            geometry=config.geometry(
                pyramids_of(None, None).schedule(TEXT_TOKENS), torch.bfloat16
            ),  # as the published code runs
            config=config,
            tokenizer=VideoTokenizerConfig(),
            sampling=SAMPLING,
            fps=FPS,
        )

    def shape(self, *, aspect: str | None = None, size: str | None = None) -> CacheGeometry:
        ModelCard.shape(self, aspect=aspect, size=size)  # refuses other shapes
        return self.config.geometry(pyramids_of(aspect, size).schedule(TEXT_TOKENS), self.geometry.dtype)

    def rows_of(self, sampling: Sampling) -> int:
        return rows_of(sampling)

    def check_sampling(self, sampling: Sampling, shape: CacheGeometry) -> None:
        check_sampling(sampling, shape.schedule)

    def size_bound(self, *, aspect: str | None = None, size: str | None = None) -> SizeBound:
        return size_bound(self.config, self.tokenizer, pyramids_of(aspect, size), text_encoder=T5_WEIGHTS)

    def text_encoder_bytes(self, dtype: torch.dtype) -> int:
        return T5_WEIGHTS * dtype.itemsize

    def bare(
        self,
        *,
        aspect: str | None = None,
        size: str | None = None,
        layers: int | None = None,
        device: str | torch.device = "meta",
        dtype: torch.dtype | None = None,
    ) -> BareInfinityStar:
        made = BareInfinityStar.of(
            self.config,
            self.tokenizer,
            pyramids_of(aspect, size),
            text_tokens=TEXT_TOKENS,
            preset=preset_of(size or SIZE),
            sampling=self.sampling,
            layers=layers,
            device=device,
        )
        made.star.published_in(dtype or self.geometry.dtype)
        return made

    def load(
        self,
        *,
        weights: Path | None = None,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        allow_nonfinite: bool = False,
    ) -> PublishedInfinityStar:
        """The model; the transformer in this dtype, its heads and the tokenizer in float32.

        Args:
            weights: a folder with the official files, or the transformer's folder of shards, beside which the others are. Every
                ``profile*.safetensors`` beside it is an attention profile, of the maps that it was made with. None fetches the
                files for 480p from the hub, where no profile is.
            device, dtype: where and how it runs.

        Raises:
            CheckpointError: a file is missing, truncated, of another model, or the files do not fit each other.
            MissingExtra: no weights are given, and huggingface_hub is not installed.
            ProfileError: a profile is damaged.
        """
        parts = parts_of(self.name, weights)
        profiles = self.profiles(weights)
        encoder = T5Encoder(parts.t5, device=device, allow_nonfinite=allow_nonfinite)
        tokenizer = load_video_tokenizer(
            parts.tokenizer, device=device, allow_nonfinite=allow_nonfinite, known=self.formats
        )
        star = load_infinitystar(
            parts.transformer,
            tokenizer=tokenizer,
            expect=self.config,
            device=device,
            dtype=dtype,
            allow_nonfinite=allow_nonfinite,
        )
        return PublishedInfinityStar(
            self.name, star, encoder, sampling=self.sampling, profiles=profiles, trained_for=parts.size
        )

    def random(
        self, *, seed: int = 0, device: str = "cpu", dtype: torch.dtype = torch.float32
    ) -> PublishedInfinityStar:
        star = random_infinitystar(self.config, self.tokenizer, seed=seed, device=device, dtype=dtype)
        encoder = RandomText(self.config.text_width, self.config.text_window)
        return PublishedInfinityStar(self.name, star, encoder, sampling=self.sampling)

    def profiles(self, weights: Path | None = None) -> list[AttentionProfile]:
        return [] if weights is None else profiles_beside(parts_of(self.name, weights).transformer, PROFILES)

    @property
    def formats(self) -> tuple[WeightsFormat, ...]:
        return FORMATS

    @property
    def example(self) -> str:
        return "a red circle moves right"
