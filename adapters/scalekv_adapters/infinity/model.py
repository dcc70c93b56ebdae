"""Infinity by name: what the command line lists, loads and runs.

The published models want the official files, which are not moved. Any of them also runs with random weights: the images
are noise, memory and time are real.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from attrs import frozen
from torch import Tensor

from scalekv_adapters.infinity.bare import BareInfinity, size_bound
from scalekv_adapters.infinity.checkpoint import FORMATS
from scalekv_adapters.infinity.config import CANVASES, InfinityConfig
from scalekv_adapters.infinity.files import in_words, load_parts, parts_in, parts_of
from scalekv_adapters.infinity.guidance import Guidance
from scalekv_adapters.infinity.prompts import PackedText, TextEncoder
from scalekv_adapters.infinity.templates import ASPECTS, PIXELS, Canvas
from scalekv_adapters.infinity.transformer import Infinity
from scalekv_adapters.infinity.vae import BSQVAE, BSQVAEConfig
from scalekv_core.contracts.profile import AttentionProfile
from scalekv_core.errors import InputError
from scalekv_core.models.card import ModelCard
from scalekv_core.models.image_model import Generation, ImageModel
from scalekv_core.models.requests import Seeds
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
T5_WEIGHTS = 1_223_527_424
"""Parameters of the encoder of flan-t5-xl, which reads the prompts of the published models."""


def profiles_beside(file: Path) -> list[AttentionProfile]:
    """The attention profiles in the folder of this file; ProfileError if one is damaged."""
    return [AttentionProfile.load(path) for path in sorted(file.parent.glob("profile*.safetensors"))]


class InfinityImageModel(ImageModel):
    """An Infinity whose prompts are text, on a canvas that can be chosen.

    Args:
        name: that it was loaded by.
        infinity: with its VAE.
        encoder: of the text features that it was trained with.
        sampling: its defaults.
        profiles: its attention profiles; one is made on one canvas.
    """

    def __init__(
        self,
        name: str,
        infinity: Infinity,
        encoder: TextEncoder,
        *,
        sampling: Sampling,
        profiles: Sequence[AttentionProfile] = (),
    ) -> None:
        self.name = name
        self.module = self.infinity = infinity
        self.encoder = encoder
        self.sampling = sampling
        self.profiles = tuple(profiles)
        self._read: dict[str, Tensor] = {}
        self.set_shape()

    def set_shape(self, *, aspect: str | None = None, size: str | None = None) -> None:
        canvas = self.infinity.canvas
        try:
            self.infinity.canvas = Canvas(aspect or canvas.aspect, size or canvas.pixels)
        except InputError as error:
            raise InputError(f"model {self.name!r} generates no such images: {error}") from error
        self.aspect, self.size = self.infinity.canvas.aspect, self.infinity.canvas.pixels
        self.schedule = self.infinity.canvas.schedule
        fitting = [profile for profile in self.profiles if profile.schedule == self.schedule]
        self.profile = fitting[0] if fitting else None

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
        return self.infinity.generate(
            self.read(prompts),
            seeds=None if how.greedy else seeds,
            guidance=how.guidance,
            guidance_at=how.guidance_at,
            top_k=how.top_k,
            top_p=how.top_p,
            temperature=how.temperature,
            forced=forced or (),
            keep_logits=keep_logits,
        )

    def read(self, prompts: Sequence[str]) -> PackedText:
        """The features of the prompts; the same prompts are encoded once.

        Raises:
            InputError: a prompt is empty or too long.
        """
        if empty := [i for i, prompt in enumerate(prompts) if not prompt.strip()]:
            raise InputError(
                f"model {self.name!r} generates from a text, and prompt {empty[0] + 1} of {len(prompts)} is empty"
            )
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._read]
        encoded = dict(zip(new, self.encoder.encode(new), strict=True)) if new else {}
        known = {**self._read, **encoded}
        self._read = {prompt: known[prompt] for prompt in prompts}
        return PackedText.pack([known[prompt] for prompt in prompts])


@frozen
class RandomText:
    """Stands for a text encoder where weights are random: one random feature per word, always the same for a prompt.

    Attributes:
        channels: of the features.
        longest: the most words that a prompt may have.
    """

    channels: int
    longest: int

    def encode(self, prompts: Sequence[str]) -> list[Tensor]:
        """Features (words, C) of each prompt; InputError if one has too many words."""
        return [self._features(prompt) for prompt in prompts]

    def _features(self, prompt: str) -> Tensor:
        words = len(prompt.split())
        if words > self.longest:
            raise InputError(f"a prompt may have {self.longest} text tokens, here words; got {words}")
        seed = int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:8], "little") >> 1
        return torch.randn(words, self.channels, generator=torch.Generator().manual_seed(seed))


@frozen(kw_only=True)
class InfinityCard(ModelCard):
    """An Infinity: its name, its sizes, and where its weights come from.

    Attributes:
        name: that it is loaded by.
        config, vae: sizes of the transformer and of its VAE.
        canvas: its default aspect ratio and size.
    """

    name: str
    config: InfinityConfig
    vae: BSQVAEConfig
    canvas: Canvas

    needs_weights = True
    fetches = True
    aspects = tuple(ASPECTS)
    sizes = tuple(PIXELS)

    @classmethod
    def published(cls, name: str) -> InfinityCard:
        """The card of a published model, such as "infinity-2b"; UnknownName if there is none."""
        config, canvas = InfinityConfig.published(name), CANVASES[name]
        height, width = canvas.image_size()
        return cls(
            name=name,
            summary=f"text, {width} x {height} pixels, or 14 other aspect ratios and 3 other sizes",
            weights=in_words(name),
            geometry=published_shape(config, canvas),
            config=config,
            vae=BSQVAEConfig.published(VAES[name]),
            canvas=canvas,
            sampling=OFFICIAL[name],
        )

    def shape(self, *, aspect: str | None = None, size: str | None = None) -> CacheGeometry:
        return published_shape(self.config, self.drawn_on(aspect, size))

    def drawn_on(self, aspect: str | None, size: str | None) -> Canvas:
        """The canvas of this aspect ratio and size; InputError if there is none."""
        return Canvas(aspect or self.canvas.aspect, size or self.canvas.pixels)

    def text_encoder_bytes(self, dtype: torch.dtype) -> int:
        return T5_WEIGHTS * dtype.itemsize

    def size_bound(self, *, aspect: str | None = None, size: str | None = None) -> SizeBound:
        return size_bound(self.config, self.vae, self.drawn_on(aspect, size), text_encoder=T5_WEIGHTS)

    def bare(
        self,
        *,
        aspect: str | None = None,
        size: str | None = None,
        layers: int | None = None,
        device: str | torch.device = "meta",
        dtype: torch.dtype | None = None,
    ) -> BareInfinity:
        return BareInfinity.of(
            self.config,
            self.vae,
            self.drawn_on(aspect, size),
            self.sampling,
            layers=layers,
            device=device,
            dtype=dtype or self.geometry.dtype,
        )

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
        return [] if weights is None else profiles_beside(parts_in(self.name, Path(weights)).transformer)

    def rows_of(self, sampling: Sampling) -> int:
        return rows_of(sampling)

    def check_sampling(self, sampling: Sampling, shape: CacheGeometry) -> None:
        check_sampling(sampling, shape)

    def random(self, *, seed: int = 0, device: str = "cpu", dtype: torch.dtype = torch.float32) -> InfinityImageModel:
        infinity = random_infinity(self.config, self.vae, canvas=self.canvas, seed=seed, device=device, dtype=dtype)
        encoder = RandomText(self.config.text_channels, self.config.text_maxlen)
        return InfinityImageModel(self.name, infinity, encoder, sampling=self.sampling)

    @property
    def example(self) -> str:
        return "a red circle left of a blue square"


def rows_of(sampling: Sampling) -> int:
    """Sequences in the batch for each image: guidance of 1 or 0 generates without guidance.

    >>> rows_of(Sampling(guidance=1.0)), rows_of(Sampling(guidance=(1.0, 3.0)))
    (1, 2)
    """
    return 2 if any(strength not in (0, 1) for strength in sampling.strengths) else 1


def check_sampling(sampling: Sampling, shape: CacheGeometry) -> None:
    """Raises InputError where guidance is out of range, not one per scale, or at a place that does not exist."""
    Guidance.of(sampling.guidance, sampling.guidance_at, scales=len(shape.schedule), depth=shape.layers)


def published_shape(config: InfinityConfig, canvas: Canvas) -> CacheGeometry:
    """The cache of the published code, one row: attention in bfloat16."""
    return config.geometry(canvas, torch.bfloat16)


def random_infinity(
    config: InfinityConfig,
    vae: BSQVAEConfig,
    *,
    canvas: Canvas,
    seed: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Infinity:
    """An Infinity and its VAE of these sizes with seeded random weights, in evaluation mode.

    It is built without memory and filled tensor by tensor, in its final dtype, so that no more is ever held than it weighs.

    Args:
        config, vae: the sizes.
        canvas: aspect ratio and size.
        seed: of the weights.
        device, dtype: where and how it runs: blocks and text projections in this dtype, the rest in float32.
    """
    generator = torch.Generator(device).manual_seed(seed)
    with torch.device("meta"):
        decoder = BSQVAE(vae)
        infinity = Infinity(config, decoder, canvas=canvas).blocks_to(dtype)
    for module in (infinity, decoder):
        module.to_empty(device=device).eval().requires_grad_(False)
        for name, tensor in module.state_dict().items():
            fill_randomly(name, tensor, generator)
    return infinity


@torch.no_grad()
def fill_randomly(name: str, tensor: Tensor, generator: torch.Generator) -> None:
    """Fills a tensor of a new model in place, so that activations stay finite at any depth."""
    if name.endswith("zero_k_bias"):
        tensor.zero_()
    elif name.endswith("lfq.mask"):
        tensor.copy_(2 ** torch.arange(len(tensor) - 1, -1, -1))
    elif name.endswith("norm.weight"):
        tensor.fill_(1)
    else:
        tensor.normal_(std=0.02, generator=generator)
