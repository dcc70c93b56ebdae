"""VAR by name: what the command line lists, loads and runs.

var-tiny ships with its weights; the published models want the official files, which are not moved.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from attrs import frozen
from torch import Tensor

from scalekv_adapters.hub import fetched
from scalekv_adapters.var.bare import BareVAR, size_bound
from scalekv_adapters.var.checkpoint import FORMATS, load_var, load_vqvae
from scalekv_adapters.var.config import VARConfig
from scalekv_adapters.var.transformer import VAR
from scalekv_adapters.var.vqvae import VQVAEConfig
from scalekv_core.contracts.profile import AttentionProfile
from scalekv_core.errors import CheckpointError, InputError
from scalekv_core.models.card import ModelCard
from scalekv_core.models.image_model import Generation, ImageModel
from scalekv_core.models.requests import Seeds, shortened
from scalekv_core.models.sampling import Sampling
from scalekv_core.models.size_bound import SizeBound
from scalekv_core.models.weights import WeightsFormat, beside
from scalekv_core.shapes.geometry import CacheGeometry

FILES = {
    "var-d16": "var_d16.pth",
    "var-d20": "var_d20.pth",
    "var-d24": "var_d24.pth",
    "var-d30": "var_d30.pth",
    "var-d36-512": "var_d36.pth",
}
"""{model: official name of its weights}."""
VQVAE_FILE = "vae_ch160v4096z32.pth"
REPOSITORY = "FoundationVision/var"
OFFICIAL = Sampling(guidance=4.0, top_k=900, top_p=0.95)
"""The sampling of the official demonstration."""
PROFILE = "profile.safetensors"
MOST_DIGITS = 9
"""A label has no more; Python refuses to read thousands of them."""


def profiles_beside(file: Path) -> list[AttentionProfile]:
    """The attention profile in the folder of this file, if there is one; ProfileError if it is damaged."""
    path = file.with_name(PROFILE)
    return [AttentionProfile.load(path)] if path.is_file() else []


def check_sampling(name: str, sampling: Sampling) -> None:
    """Raises InputError where guidance is told by scale, or at another place than the logits."""
    if isinstance(sampling.guidance, tuple):
        raise InputError(f"model {name!r} wants one guidance, which grows from scale to scale by itself")
    sampling.check_guided_on_logits(f"model {name!r}")


class VARImageModel(ImageModel):
    """A VAR whose prompts are class labels, written as numbers."""

    def __init__(self, name: str, var: VAR, *, sampling: Sampling, profile: AttentionProfile | None = None) -> None:
        self.name = name
        self.module = self.var = var
        self.schedule = var.config.schedule
        self.sampling = sampling
        self.profile = profile

    def generate(
        self,
        prompts: Sequence[str],
        *,
        seeds: Seeds,
        sampling: Sampling | None = None,
        forced: Sequence[Tensor] | None = None,
        keep_logits: bool = False,
    ) -> Generation:
        prompts = self.check_prompts(prompts)
        seeds = self.check_seeds(prompts, seeds)
        how = sampling or self.sampling
        check_sampling(self.name, how)
        return self.var.generate(
            [self.label(prompt) for prompt in prompts],
            seeds=None if how.greedy else seeds,
            guidance=how.strengths[0],
            top_k=how.top_k,
            top_p=how.top_p,
            temperature=how.temperature,
            forced=forced or (),
            keep_logits=keep_logits,
        )

    def label(self, prompt: str) -> int:
        """The class that a prompt names; InputError if it names none."""
        classes, digits = self.var.config.num_classes, prompt.strip()
        if not (digits.isdecimal() and len(digits) <= MOST_DIGITS and int(digits) < classes):
            raise InputError(
                f"model {self.name!r} generates class labels, the numbers 0 to {classes - 1}; got {shortened(prompt)}"
            )
        return int(digits)


@frozen(kw_only=True)
class VARCard(ModelCard):
    """A published VAR: its name, and the official files that it is loaded from."""

    name: str

    needs_weights = True
    fetches = True

    @classmethod
    def published(cls, name: str) -> VARCard:
        """The card of a published model, such as "var-d16"; UnknownName if there is none."""
        config = VARConfig.published(name)
        side = VQVAEConfig(patch_sides=config.patch_sides).image_side
        return cls(
            name=name,
            summary=f"ImageNet classes, {side} x {side} pixels",
            weights=f"a folder with {FILES[name]} and {VQVAE_FILE}, from https://huggingface.co/{REPOSITORY}",
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
    ) -> ImageModel:
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
        transformer, vqvae = self.files(weights)
        config = VARConfig.published(self.name)
        loaded = load_var(
            transformer,
            vqvae=load_vqvae(vqvae, patch_sides=config.patch_sides, device=device, allow_nonfinite=allow_nonfinite),
            expect=config,
            device=device,
            dtype=dtype,
            allow_nonfinite=allow_nonfinite,
        )
        profile = self.profile_of(config.schedule, weights=weights)
        return VARImageModel(self.name, loaded, sampling=self.sampling, profile=profile)

    def profiles(self, weights: Path | None = None) -> list[AttentionProfile]:
        return [] if weights is None else profiles_beside(self.files(weights)[0])

    def check_sampling(self, sampling: Sampling, shape: CacheGeometry) -> None:
        check_sampling(self.name, sampling)

    def files(self, weights: Path | None) -> tuple[Path, Path]:
        """The transformer's and the VQVAE's file.

        Raises:
            CheckpointError: one of them is missing, or cannot be fetched.
            MissingExtra: no weights are given, and huggingface_hub is not installed.
        """
        if weights is None:
            names = (FILES[self.name], VQVAE_FILE)
            weights = fetched(REPOSITORY, names, otherwise=f"or give {self.weights}")
        weights = Path(weights)
        folder = weights if weights.is_dir() else weights.parent
        transformer = beside(folder, FILES[self.name]) if weights.is_dir() else weights
        vqvae = beside(folder, VQVAE_FILE)
        if missing := [str(file) for file in (transformer, vqvae) if not file.is_file()]:
            raise CheckpointError(f"model {self.name!r} lacks {' and '.join(missing)}; give {self.weights}")
        return transformer, vqvae

    @property
    def formats(self) -> tuple[WeightsFormat, ...]:
        return FORMATS

    @property
    def example(self) -> str:
        return "207"

    def size_bound(self, *, aspect: str | None = None, size: str | None = None) -> SizeBound:
        config = VARConfig.published(self.name)
        return size_bound(config, VQVAEConfig(patch_sides=config.patch_sides))

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
        config = VARConfig.published(self.name)
        return BareVAR.of(
            config,
            VQVAEConfig(patch_sides=config.patch_sides),
            self.sampling,
            layers=layers,
            device=device,
            dtype=dtype or self.geometry.dtype,
        )
