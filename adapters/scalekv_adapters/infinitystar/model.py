"""An InfinityStar that is asked with texts: what :func:`scalekv_core.load_model` gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from scalekv_adapters.image_model import FamilyModel
from scalekv_adapters.infinitystar.generation import Clips, InfinityStar
from scalekv_adapters.infinitystar.guidance import Preset
from scalekv_adapters.infinitystar.text import Text
from scalekv_adapters.infinitystar.tokenizer_bits import to_tokens
from scalekv_core.contracts.profile import AttentionProfile
from scalekv_core.errors import InputError
from scalekv_core.models.parts import DECODER, TEXT_ENCODER, TRANSFORMER, Parts
from scalekv_core.models.sampling import Sampling


class TextEncoder(Protocol):
    """What turns prompts into features."""

    def encode(self, prompts: Sequence[str]) -> list[Tensor]:
        """Features (L_i, C) of each prompt; InputError if one is empty or too long."""
        ...


class InfinityStarImageModel(FamilyModel):
    """An InfinityStar whose prompts are texts; its clips have the one shape of ``star.pyramids``.

    Args:
        name: that it was loaded by.
        star: with its tokenizer.
        encoder: of the text features that it was trained with.
        preset: temperatures and kind of guidance.
        sampling: its defaults; its temperature is a factor on those of the preset.
        profiles: its attention profiles, each of the maps of one shape.
    """

    def __init__(
        self,
        name: str,
        star: InfinityStar,
        encoder: TextEncoder,
        *,
        preset: Preset,
        sampling: Sampling,
        profiles: Sequence[AttentionProfile] = (),
    ) -> None:
        self.name = name
        self.module = self.star = star
        self.encoder, self.preset, self.sampling = encoder, preset, sampling
        self.profiles = tuple(profiles)
        self._take_shape()

    def _take_shape(self) -> None:
        """Schedule and profile follow the pyramids."""
        self.schedule = self.star.pyramids.schedule(self.star.text_tokens)
        self.profile = next((each for each in self.profiles if each.fits(self.schedule)), None)

    @property
    def parts(self) -> Parts:
        read = (self.encoder,) if isinstance(self.encoder, nn.Module) else ()  # T5 comes and goes by itself
        return {TEXT_ENCODER: read, TRANSFORMER: (self.star,), DECODER: (self.star.tokenizer,)}

    @property
    def blocks(self) -> Sequence[nn.Module]:
        return tuple(self.star.blocks)

    def asked(self, prompt: str) -> str:
        """What the text encoder reads of a prompt: here the prompt itself."""
        return prompt

    def batch(self, prompts: Sequence[str], sampling: Sampling, negative_prompt: str) -> Clips:
        star = self.star
        choosing = self.preset.choosing(star.pyramids, sampling)
        text = self.text_of(prompts, negative_prompt)
        self.turn(TRANSFORMER)
        return Clips(star, text, star.pyramids, choosing)

    def text_of(self, prompts: Sequence[str], negative_prompt: str = "") -> Text:
        """The features of the prompts, and of what guidance leads away from if it is not empty.

        Raises:
            InputError: a prompt is empty or too long, or prompts have different numbers of text tokens: a batch is not padded,
                since attention would read the padding.
        """
        if empty := [i for i, prompt in enumerate(prompts, 1) if not prompt.strip()]:
            raise InputError(
                f"model {self.name!r} generates from a text, and prompt {empty[0]} of {len(prompts)} is empty"
            )
        self.turn(TEXT_ENCODER)
        asked = [self.asked(prompt) for prompt in prompts]
        features = self.encoder.encode([*asked, negative_prompt] if negative_prompt else asked)
        mine, other = features[: len(asked)], features[len(asked) :]
        if len(counts := sorted({len(each) for each in mine})) > 1:
            raise InputError(
                f"model {self.name!r} generates prompts of equally many text tokens at once; these have "
                f"{' and '.join(map(str, counts))}: generate them one after the other"
            )
        negative = torch.stack(other * len(mine)) if other else None
        return Text(torch.stack(mine), negative)

    @torch.no_grad()
    def beginning_with(self, images: Tensor) -> list[Tensor]:
        """The bits of the first pyramid that make clips begin with these images: what ``forced`` of `generate` takes.

        Args:
            images: (B, 3, H, W) in [0, 1], of the clips' own size.

        Raises:
            InputError: images of another size or aspect ratio.
        """
        passes = [each for each in self.star.pyramids.passes if each.pyramid == 0]
        bits = self.star.tokenizer.encode_images(images * 2 - 1, [p.grid for p in passes], [p.bits for p in passes])
        return [to_tokens(of_pass) for of_pass in bits]
