"""How good star-tiny is: the captions that it is asked, and how many of its clips show them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from attrs import frozen
from torch import Tensor

from scalekv_adapters.infinitystar.guidance import Preset
from scalekv_adapters.infinitystar.text import Text
from scalekv_adapters.infinitystar.tiny.captions import Caption
from scalekv_adapters.infinitystar.tiny.judge import see
from scalekv_adapters.infinitystar.tiny.network import TinyStar
from scalekv_core.models.sampling import Sampling

__all__ = ["Score", "draw", "score"]


@frozen(kw_only=True)
class Score:
    """Shares of clips, in [0, 1], of which colour and object are right in every frame, the direction is, and all three are."""

    colour: float
    object: float
    direction: float
    all: float

    def __str__(self) -> str:
        return f"colour {self.colour:.1%}, object {self.object:.1%}, direction {self.direction:.1%}, all three {self.all:.1%}"


def score(captions: Sequence[Caption], clips: Tensor) -> Score:
    """What the judge says of clips (N, 3, F, H, W) in [0, 1]."""
    seen = [see(clip) for clip in clips]
    pairs = list(zip(captions, seen, strict=True))
    return Score(
        colour=_share([set(one.colours) == {caption.colour} for caption, one in pairs]),
        object=_share([set(one.shapes) == {caption.shape} for caption, one in pairs]),
        direction=_share([one.direction == caption.direction for caption, one in pairs]),
        all=_share([one.shows(caption) for caption, one in pairs]),
    )


def draw(
    model: TinyStar, captions: Sequence[Caption], seeds: Sequence[int], how: Sampling, *, at_once: int = 8
) -> Tensor:
    """Clips (N, 3, F, H, W) in [0, 1] of N captions; they do not depend on how many are generated at once."""
    star, clips = model.transformer, []
    choosing = Preset(first=1.0, later=1.0).choosing(star.pyramids, how)
    for start in range(0, len(captions), at_once):
        part = slice(start, start + at_once)
        with torch.no_grad():
            text = Text(model.text([str(caption) for caption in captions[part]]))
        clips.append(star.generate(text, star.pyramids, choosing, seeds=list(seeds[part])).images)
    return torch.cat(clips)


def _share(right: Sequence[bool]) -> float:
    return sum(right) / len(right)
