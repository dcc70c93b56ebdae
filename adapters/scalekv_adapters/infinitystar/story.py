"""What an interactive clip is told of the clips before it."""

from __future__ import annotations

import torch
from attrs import frozen
from torch import Tensor

from scalekv_adapters.infinitystar.pyramids import Pyramids
from scalekv_adapters.infinitystar.rotation import map_places
from scalekv_adapters.infinitystar.tokenizer_bits import pooled
from scalekv_core.errors import InputError

STEPS = (800, 801)
"""The steps that the two conditions say they are, far behind those of any clip."""


@frozen(eq=False)
class Story:
    """The latents that a clip follows.

    Attributes:
        former: (B, 64, 21, h, w) the last latent frames before it.
        first: (B, 64, 1, h, w) the very first one of the story.
    """

    former: Tensor
    first: Tensor

    def conditions(self, pyramids: Pyramids, offset: int) -> list[tuple[Tensor, Tensor]]:
        """Of both conditions the map (B, 64, t, h, w) and where its tokens lie (n, 4).

        The first shows all former frames but one, small; the second the first frame and the last two, whole.

        Args:
            pyramids: of the clip.
            offset: the text's window, from which steps are counted.
        """
        small, _ = pyramids.conditions
        recent = self.former[:, :, 1:]
        count = recent.shape[2]
        sources = (pooled(recent, small), torch.cat((self.first, recent[:, :, -2:]), dim=2))
        frames = (range(1, count + 1), (0, count - 1, count))
        return [
            (x, map_places(offset + step, numbers, (x.shape[3], x.shape[4]), pyramids.whole))
            for x, step, numbers in zip(sources, STEPS, frames, strict=True)
        ]

    def check(self, pyramids: Pyramids, images: int, channels: int) -> None:
        """Raises InputError unless it has the frames and sides that these pyramids follow."""
        for name, x, frames in (("former", self.former, pyramids.conditions[0][0] + 1), ("first", self.first, 1)):
            wanted = (images, channels, frames, *pyramids.whole)
            if tuple(x.shape) != wanted:
                raise InputError(f"an interactive clip needs {name} latents {wanted}; got {tuple(x.shape)}")
