"""Text as InfinityStar reads it: features of the real tokens, the first map of every cache."""

from __future__ import annotations

import torch
from attrs import frozen
from torch import Tensor
from torch.nn.functional import pad

from scalekv_adapters.infinitystar.config import InfinityStarConfig
from scalekv_adapters.infinitystar.transformer import InfinityStarTransformer
from scalekv_core.errors import InputError


@frozen(eq=False)
class Text:
    """Prompts that have the same number of text tokens, for these are not padded.

    Attributes:
        features: (B, T, text width).
        negative: (B, T', text width), T' at most T: what guidance leads away from; None is the learnt features that say
            nothing.
    """

    features: Tensor
    negative: Tensor | None = None

    @property
    def prompts(self) -> int:
        """B."""
        return self.features.shape[0]

    @property
    def tokens(self) -> int:
        """T."""
        return self.features.shape[1]

    def check(self, config: InfinityStarConfig) -> None:
        """Raises InputError where the text does not fit the model."""
        if self.features.dim() != 3 or self.features.shape[2] != config.text_width:
            raise InputError(
                f"InfinityStar reads text (prompts, tokens, {config.text_width}); got {tuple(self.features.shape)}"
            )
        if not 0 < self.tokens <= config.text_window:
            raise InputError(
                f"InfinityStar reads prompts of 1 to {config.text_window} text tokens; got {self.tokens}: shorten the prompt"
            )
        if self.negative is None:
            return
        wanted = (self.prompts, config.text_width)
        fits = self.negative.dim() == 3 and (self.negative.shape[0], self.negative.shape[2]) == wanted
        if not fits or not 0 < self.negative.shape[1] <= self.tokens:
            raise InputError(
                f"InfinityStar reads a negative prompt ({wanted[0]}, 1 to {self.tokens}, {wanted[1]}), not longer than the "
                f"prompt; got {tuple(self.negative.shape)}"
            )

    def embedded(self, model: InfinityStarTransformer, *, guided: bool) -> Tensor:
        """(rows, T, C): with guidance the conditioned rows first, then those that say nothing or the negative prompt.

        A shorter negative prompt is padded with zeros that attention reads, as published.
        """
        conditioned = model.embed_text(self.features)
        if not guided:
            return conditioned
        if self.negative is None:
            nothing = model.cfg_uncond[: self.tokens].expand(self.prompts, -1, -1)
            other = model.embed_text(nothing)
        else:
            other = pad(model.embed_text(self.negative), (0, 0, 0, self.tokens - self.negative.shape[1]))
        return torch.cat((conditioned, other))
