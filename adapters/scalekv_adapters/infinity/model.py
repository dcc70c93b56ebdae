"""An Infinity that is asked with texts: what :func:`scalekv_core.load_model` gives."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from scalekv_adapters.image_model import FamilyModel
from scalekv_adapters.infinity.generation import Infinity, InfinityImages
from scalekv_adapters.infinity.prompts import PackedText, TextEncoder
from scalekv_adapters.infinity.templates import Canvas
from scalekv_core.contracts.profile import AttentionProfile
from scalekv_core.errors import InputError
from scalekv_core.models.parts import DECODER, TEXT_ENCODER, TRANSFORMER, Parts
from scalekv_core.models.sampling import Sampling


class InfinityImageModel(FamilyModel):
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
            wanted = canvas.aspect if aspect is None else aspect, canvas.pixels if size is None else size
            self.infinity.canvas = Canvas(*wanted)
        except InputError as error:
            raise InputError(f"model {self.name!r} generates no such images: {error}") from error
        self.aspect, self.size = self.infinity.canvas.aspect, self.infinity.canvas.pixels
        self.schedule = self.infinity.canvas.schedule
        fitting = [profile for profile in self.profiles if profile.schedule == self.schedule]
        self.profile = fitting[0] if fitting else None

    @property
    def parts(self) -> Parts:
        vae = self.infinity.vae
        read = (self.encoder,) if isinstance(self.encoder, nn.Module) else ()  # T5 comes and goes by itself
        return {TEXT_ENCODER: read, TRANSFORMER: (self.infinity, vae.quantizer), DECODER: (vae.decoder,)}

    @property
    def blocks(self) -> Sequence[nn.Module]:
        return tuple(self.infinity.blocks)

    def batch(self, prompts: Sequence[str], sampling: Sampling, negative_prompt: str) -> InfinityImages:
        features = self.features([*prompts, negative_prompt] if negative_prompt else prompts)
        images = len(prompts)
        self.turn(TRANSFORMER)
        return self.infinity.batch(
            PackedText.pack(features[:images]),
            negative=PackedText.pack(features[images:] * images) if negative_prompt else None,
            guidance=sampling.guidance,
            guidance_at=sampling.guidance_at,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            temperature=sampling.temperature,
        )

    def read(self, prompts: Sequence[str]) -> PackedText:
        """The features of the prompts, packed; see `features`."""
        return PackedText.pack(self.features(prompts))

    def features(self, prompts: Sequence[str]) -> list[Tensor]:
        """The features (L_i, C) of each prompt; the same prompts are encoded once.

        Raises:
            InputError: a prompt is empty or too long.
        """
        if empty := [i for i, prompt in enumerate(prompts) if not prompt.strip()]:
            raise InputError(
                f"model {self.name!r} generates from a text, and prompt {empty[0] + 1} of {len(prompts)} is empty"
            )
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._read]
        if new:
            self.turn(TEXT_ENCODER)
        encoded = dict(zip(new, self.encoder.encode(new), strict=True)) if new else {}
        known = {**self._read, **encoded}
        self._read = {prompt: known[prompt] for prompt in prompts}
        return [known[prompt] for prompt in prompts]
