"""VAR by name: what the command line lists, plans and loads.

The published models want the official files, which are not moved; var-tiny ships (`scalekv_adapters.var.tiny`).
"""

from __future__ import annotations

from pathlib import Path

import torch
from attrs import frozen

from scalekv_adapters.cards import profiles_beside
from scalekv_adapters.var.bare import BareVAR, size_bound
from scalekv_adapters.var.checkpoint import FORMATS, load_var, load_vqvae
from scalekv_adapters.var.config import VARConfig
from scalekv_adapters.var.files import folder_for, parts_of
from scalekv_adapters.var.model import VARImageModel, check_sampling
from scalekv_adapters.vqvae import VQVAEConfig
from scalekv_core.contracts.profile import AttentionProfile
from scalekv_core.models.card import ModelCard
from scalekv_core.models.sampling import Sampling
from scalekv_core.models.size_bound import SizeBound
from scalekv_core.models.weights import WeightsFormat
from scalekv_core.shapes.geometry import CacheGeometry

OFFICIAL = Sampling(guidance=4.0, top_k=900, top_p=0.95)
"""The sampling of the official demonstration."""
PROFILE = "profile.safetensors"


@frozen(kw_only=True)
class VARCard(ModelCard):
    """A VAR: its name and its sizes.

    Attributes:
        name: that it is loaded by.
        config, vqvae: sizes of the transformer and of its VQVAE.
    """

    name: str
    config: VARConfig
    vqvae: VQVAEConfig

    def check_sampling(self, sampling: Sampling, shape: CacheGeometry) -> None:
        check_sampling(self.name, sampling)

    def size_bound(self, *, aspect: str | None = None, size: str | None = None) -> SizeBound:
        return size_bound(self.config, self.vqvae)

    def bare(
        self,
        *,
        aspect: str | None = None,
        size: str | None = None,
        layers: int | None = None,
        device: str | torch.device = "meta",
        dtype: torch.dtype | None = None,
    ) -> BareVAR:
        shape = self.shape(aspect=aspect, size=size)
        return BareVAR.of(
            self.config, self.vqvae, self.sampling, layers=layers, device=device, dtype=dtype or shape.dtype
        )


@frozen(kw_only=True)
class PublishedVARCard(VARCard):
    """A published VAR, loaded from the official files."""

    needs_weights = True
    fetches = True

    @classmethod
    def of(cls, name: str) -> PublishedVARCard:
        """The card of a published model, such as "var-d16"; UnknownName if there is none."""
        config = VARConfig.published(name)
        vqvae = VQVAEConfig(patch_sides=config.patch_sides)
        return cls(
            name=name,
            config=config,
            vqvae=vqvae,
            summary=f"ImageNet classes, {vqvae.image_side} x {vqvae.image_side} pixels",
            weights=folder_for(name),
            geometry=config.geometry(),
            sampling=OFFICIAL,
        )

    def load(
        self,
        *,
        weights: Path | None = None,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        allow_nonfinite: bool = False,
    ) -> VARImageModel:
        """The model; the transformer in this dtype, its VQVAE in float32.

        Args:
            weights: a folder with both official files, or with what ``scalekv convert`` made of them; or the transformer's
                file, beside which the other one is. A ``profile.safetensors`` there is the model's attention profile.
                None fetches the files from the hub, where no profile is.
            device, dtype: where and how it runs.

        Raises:
            CheckpointError: a file is missing, truncated, or of another model.
            MissingExtra: no weights are given, and huggingface_hub is not installed.
            ProfileError: the profile is damaged.
        """
        transformer, decoder = parts_of(self.name, weights)
        sides = self.config.patch_sides
        vqvae = load_vqvae(decoder, patch_sides=sides, device=device, allow_nonfinite=allow_nonfinite)
        var = load_var(
            transformer, vqvae=vqvae, expect=self.config, device=device, dtype=dtype, allow_nonfinite=allow_nonfinite
        )
        profile = self.profile_of(self.config.schedule, weights=weights)
        return VARImageModel(self.name, var, sampling=self.sampling, profile=profile)

    def profiles(self, weights: Path | None = None) -> list[AttentionProfile]:
        return [] if weights is None else profiles_beside(parts_of(self.name, weights)[0], PROFILE)

    @property
    def formats(self) -> tuple[WeightsFormat, ...]:
        return FORMATS

    @property
    def example(self) -> str:
        return "207"
