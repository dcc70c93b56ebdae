"""Whether a clip of star-tiny shows what its caption says, without any learned part: what it judges can't have taught it.

Object and colour are read off every frame; the direction is that of the way from the first frame to the last.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from attrs import frozen
from torch import Tensor

from scalekv_adapters.infinitystar.tiny.captions import DIRECTIONS, Caption, parse
from scalekv_adapters.shapes import Found, find

__all__ = ["Seen", "judge", "see", "shows"]

LEAST_WAY = 12.0
"""Pixels that a shape moves at least, from the first frame to the last."""

MOST_BACK = 2.0
"""Pixels that it moves back at most, from a frame to the next."""

MOST_JUMP = 8.0
"""Pixels that it moves at most, from a frame to the next."""


@frozen
class Seen:
    """What a clip shows.

    Attributes:
        colours, shapes: of the one thing of every frame; None where a frame has none, several, or one of no known kind.
        direction: in which it moves, evenly; None is in none of the four.
    """

    colours: tuple[str | None, ...]
    shapes: tuple[str | None, ...]
    direction: str | None

    def shows(self, caption: Caption) -> bool:
        """Whether colour and object are right in every frame, and the direction is."""
        return (
            set(self.colours) == {caption.colour}
            and set(self.shapes) == {caption.shape}
            and self.direction == caption.direction
        )


def see(clip: Tensor) -> Seen:
    """What a clip (3, F, H, W) in [0, 1] shows."""
    frames = [find(frame) for frame in clip.unbind(dim=1)]
    alone = [things[0] if len(things) == 1 else None for things in frames]
    colours, shapes = (tuple(getattr(one, name) if one else None for one in alone) for name in ("colour", "shape"))
    return Seen(colours, shapes, _direction(alone))


def _direction(alone: Sequence[Found | None]) -> str | None:
    there = [one for one in alone if one is not None]
    if len(there) < 2 or len(there) < len(alone):
        return None
    for name, (right, down) in DIRECTIONS.items():
        along = [right * one.x + down * one.y for one in there]
        across = [down * one.x + right * one.y for one in there]
        way = along[-1] - along[0]
        steps = [after - before for before, after in pairwise(along)]
        even = min(steps) >= -MOST_BACK and max(steps) <= MOST_JUMP
        if way >= LEAST_WAY and even and way > 2 * (max(across) - min(across)):
            return name
    return None


def judge(captions: Sequence[Caption], clips: Tensor) -> list[bool]:
    """Whether each of N clips (N, 3, F, H, W) in [0, 1] shows what its caption says."""
    return [see(clip).shows(caption) for caption, clip in zip(captions, clips, strict=True)]


def shows(clips: Tensor, prompts: Sequence[str]) -> list[bool]:
    """Whether each of N clips (N, 3, F, H, W) in [0, 1] shows what its prompt says."""
    return judge([parse(prompt) for prompt in prompts], clips.float().cpu())
