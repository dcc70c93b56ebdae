"""Whether an image of infinity-tiny shows what its caption says, without any learned part: it would be trusted less than what it judges.

A caption holds if exactly its things are there and lie as it says.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

from torch import Tensor

from scalekv_adapters.infinity.tiny.captions import RELATIONS, Caption, Thing, parse
from scalekv_adapters.shapes import COLOURS, Found, find

__all__ = ["holds", "judge", "shows"]


def holds(caption: Caption, found: Sequence[Found]) -> bool:
    """Whether exactly the things of a caption were found, lying as it says."""
    return len(found) == len(caption.things) and any(
        all(_is(thing, one) for thing, one in zip(caption.things, order, strict=True)) and _lie(caption.relation, order)
        for order in permutations(found)
    )


def _is(thing: Thing, found: Found) -> bool:
    return found.shape == thing.shape and found.colour in COLOURS and thing.colour in (None, found.colour)


def _lie(relation: str | None, found: Sequence[Found]) -> bool:
    if relation is None or relation == "and":
        return True
    right, down = RELATIONS[relation]
    across, along = found[1].x - found[0].x, found[1].y - found[0].y
    forward, sideways = (across * right, along) if right else (along * down, across)
    return forward > abs(sideways)  # nearer to this side than to any other


def judge(captions: Sequence[Caption], images: Tensor) -> list[bool]:
    """Whether each of N pictures (N, 3, H, W) in [0, 1] shows what its caption says."""
    return [holds(caption, find(image)) for caption, image in zip(captions, images, strict=True)]


def shows(images: Tensor, prompts: Sequence[str]) -> list[bool]:
    """Whether each of N images (N, 3, H, W) in [0, 1] shows what its prompt says."""
    return judge([parse(prompt) for prompt in prompts], images.float().cpu())
