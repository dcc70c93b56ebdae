"""HART by name: what the command line lists, plans and loads, with the official files or with random weights."""

from __future__ import annotations

from pathlib import Path

import torch
from attrs import evolve, frozen

from scalekv_adapters.cards import profiles_beside
from scalekv_adapters.hart.bare import BareHART, size_bound
from scalekv_adapters.hart.checkpoint import FORMATS, load_hart, load_tokenizer
from scalekv_adapters.hart.config import HARTConfig
from scalekv_adapters.hart.files import folder_for, parts_of
from scalekv_adapters.hart.model import HARTImageModel, check_sampling
from scalekv_adapters.hart.random_weights import RandomText, random_hart
from scalekv_adapters.hart.text import QwenEncoder
from scalekv_adapters.vqvae import VQVAEConfig
from scalekv_core.contracts.profile import AttentionProfile
from scalekv_core.errors import CheckpointError
from scalekv_core.models.card import ModelCard
from scalekv_core.models.sampling import Sampling
from scalekv_core.models.size_bound import SizeBound
from scalekv_core.models.weights import WeightsFormat
from scalekv_core.shapes.geometry import CacheGeometry

OFFICIAL = Sampling(guidance=4.5, top_k=600)
"""The sampling of the official demonstration, but for its smoothing of codes."""
TEXT_WEIGHTS = 1_543_714_304
"""Parameters of the language model that reads the prompts: Qwen2 of 1.5 B, without its head."""
PROFILE = "profile.safetensors"


@frozen(kw_only=True)
class HARTCard(ModelCard):
    """A published HART, loaded from the official files, or with random weights.

    Attributes:
        name: that it is loaded by.
        config, tokenizer: sizes of the transformer and of its tokenizer.
    """

    needs_weights = True
    fetches = True

    name: str
    config: HARTConfig
    tokenizer: VQVAEConfig

    @classmethod
    def of(cls, name: str) -> HARTCard:
        """The card of a published model; UnknownName if there is none of this name."""
        config = HARTConfig.published(name)
        tokenizer = config.tokenizer
        return cls(
            name=name,
            summary=f"text, {tokenizer.image_side} x {tokenizer.image_side} pixels, discrete maps and a residual diffusion",
            weights=folder_for(name),
            geometry=config.geometry(torch.float16),  # as the published code runs
            config=config,
            tokenizer=tokenizer,
            sampling=OFFICIAL,
        )

    def check_sampling(self, sampling: Sampling, shape: CacheGeometry) -> None:
        check_sampling(self.name, sampling)

    def size_bound(self, *, aspect: str | None = None, size: str | None = None) -> SizeBound:
        bound = size_bound(self.config, self.tokenizer)
        return evolve(bound, weights=bound.weights + self.text_encoder_bytes(torch.float32))

    def text_encoder_bytes(self, dtype: torch.dtype) -> int:
        return TEXT_WEIGHTS * dtype.itemsize

    def bare(
        self,
        *,
        aspect: str | None = None,
        size: str | None = None,
        layers: int | None = None,
        device: str | torch.device = "meta",
        dtype: torch.dtype | None = None,
    ) -> BareHART:
        shape = self.shape(aspect=aspect, size=size)
        return BareHART.of(
            self.config, self.tokenizer, self.sampling, layers=layers, device=device, dtype=dtype or shape.dtype
        )

    def load(
        self,
        *,
        weights: Path | None = None,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        allow_nonfinite: bool = False,
    ) -> HARTImageModel:
        """The model; the transformer in this dtype, its tokenizer in float32.

        Args:
            weights: a folder with the official ones: ``llm/``, ``tokenizer/`` and the language model. A
                ``profile.safetensors`` in ``llm/`` is the model's attention profile. None fetches them from the hub.
            device, dtype: where and how it runs.

        Raises:
            CheckpointError: a file is missing, truncated, of another model, or the files do not fit each other.
            MissingExtra: no weights are given, and huggingface_hub is not installed.
            ProfileError: the profile is damaged.
        """
        parts = parts_of(self.name, weights)
        tokenizer = load_tokenizer(
            parts.tokenizer, patch_sides=self.config.patch_sides, device=device, allow_nonfinite=allow_nonfinite
        )
        hart = load_hart(
            parts.transformer,
            parts.config,
            tokenizer=tokenizer,
            device=device,
            dtype=dtype,
            allow_nonfinite=allow_nonfinite,
        )
        encoder = QwenEncoder(parts.text, tokens=hart.config.context_tokens, device=device)
        if encoder.width != hart.config.context_width:
            raise CheckpointError(
                f"model {self.name!r} reads text features of {hart.config.context_width} channels; {parts.text} has "
                f"{encoder.width}: another language model"
            )
        profile = self.profile_of(hart.config.schedule, weights=weights)
        return HARTImageModel(self.name, hart, encoder, sampling=self.sampling, profile=profile)

    def random(self, *, seed: int = 0, device: str = "cpu", dtype: torch.dtype = torch.float32) -> HARTImageModel:
        hart = random_hart(self.config, self.tokenizer, seed=seed, device=device, dtype=dtype)
        encoder = RandomText(self.config.context_tokens, self.config.context_width)
        return HARTImageModel(self.name, hart, encoder, sampling=self.sampling)

    def profiles(self, weights: Path | None = None) -> list[AttentionProfile]:
        return [] if weights is None else profiles_beside(parts_of(self.name, weights).transformer, PROFILE)

    @property
    def formats(self) -> tuple[WeightsFormat, ...]:
        return FORMATS

    @property
    def example(self) -> str:
        return "a red circle left of a blue square"
