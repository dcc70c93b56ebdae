"""The sizes of InfinityStar's video tokenizer, and what follows from them: frames, sides, and bounds of its memory."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import attrs

from scalekv_adapters.infinitystar.tokenizer_network import FRAMES
from scalekv_adapters.sizes import as_sizes, positive
from scalekv_core.errors import InputError
from scalekv_core.models.weights import State, numbered, shape_of

TIME = 4
"""Frames of every latent frame but the first."""
FOLD = 2
"""Positions a side of the network's latent that one position of the features holds."""


def check_widths(instance: object, attribute: attrs.Attribute[Any], widths: tuple[int, ...]) -> None:
    """attrs validator: four widths that can be folded into each other."""
    fits = len(widths) == len(FRAMES) + 1 and min(widths) > 0
    if not fits or any(after % 4 or 4 * width % after for width, after in pairwise(widths)):
        raise InputError(
            f"{type(instance).__name__}: widths must be {len(FRAMES) + 1} numbers, each but the first a multiple of 4 that "
            f"divides 4 times the one before it; got {widths}"
        )


@attrs.frozen(kw_only=True)
class VideoTokenizerConfig:
    """Sizes of a video tokenizer; the defaults are those of the published one.

    Attributes:
        widths: channels of the levels, the highest resolution first.
        blocks: residual blocks of a level of the encoder; the decoder has one more.
        latent_channels: of the network's latent, at 1/8 of the sides.

    >>> config = VideoTokenizerConfig()
    >>> config.code_width, config.stride, config.frames_of(21)
    (64, 16, 81)
    """

    widths: tuple[int, ...] = attrs.field(default=(96, 192, 384, 384), converter=as_sizes, validator=check_widths)
    blocks: int = attrs.field(default=2, validator=positive)
    latent_channels: int = attrs.field(default=16, validator=positive)

    @classmethod
    def of_state(cls, state: State) -> VideoTokenizerConfig:
        """The sizes that a state dict with the official names has.

        Raises:
            CheckpointError: it is no complete video tokenizer.
        """
        levels = range(numbered(state, "encoder.down_blocks."))
        widths = [shape_of(state, f"encoder.down_blocks.{i}.resnets.0.conv1.conv.weight", 5)[0] for i in levels]
        return cls(
            widths=widths,
            blocks=numbered(state, "encoder.down_blocks.0.resnets."),
            latent_channels=shape_of(state, "decoder.conv_in.conv.weight", 5)[1],
        )

    @property
    def code_width(self) -> int:
        """Channels of the features: those of 2 x 2 positions of the network's latent."""
        return self.latent_channels * FOLD**2

    @property
    def stride(self) -> int:
        """Pixels a side of one position of the features."""
        return int(FOLD * 2 ** len(FRAMES))

    def frames_of(self, latents: int) -> int:
        """Frames of a clip of so many latent frames."""
        return 1 + TIME * (latents - 1)

    @property
    def most_weights(self) -> int:
        """Numbers in the weights, at most: a level has the convolutions of its blocks in both directions and one to another
        resolution, which makes up to eight times its channels; the lowest also has four blocks."""
        per_level = 4 * self.blocks + 2 + 9 + 8
        return sum(per_level * 28 * width**2 for width in self.widths) + 4 * self.code_width * (self.code_width + 1) + 4

    def most_decoding(self, latents: int, height: int, width: int) -> int:
        """Numbers alive at most while one clip of (latents, height, width) features is decoded, the clip itself included.

        Every convolution carries two frames: one at full resolution, 2 (blocks + 1) + 1 at each level of the decoder, and six
        more at the lowest. Beside them there are, at most, three tensors of four frames at full resolution and eight of two
        frames at each lower one.
        """
        pixels = height * width * self.stride**2
        lower = [channels / 4**level for level, channels in enumerate(self.widths)][1:]
        carried = 2 * (self.widths[0] + (2 * self.blocks + 3) * (sum(lower) + lower[-1]) + 6 * lower[-1])
        working = 3 * TIME * self.widths[0] + 8 * 2 * sum(lower)
        clip = 3 * self.frames_of(latents) + 2 * self.code_width * latents / self.stride**2
        return int(pixels * (carried + working + clip)) + 1
