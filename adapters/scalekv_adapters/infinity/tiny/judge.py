"""Whether an image of infinity-tiny shows what its caption says, without any learned part: it would be trusted less than what it judges.

Pixels get the colour whose mixture with the ground they are nearest to; connected ones make a thing; its shape is the one
whose outline of the same area and centre covers it best. A caption holds if exactly its things are there and lie as it says.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import permutations

import torch
from attrs import frozen
from torch import Tensor

from scalekv_adapters.infinity.tiny.captions import COLOURS, RELATIONS, SHAPES, Caption, Thing, parse
from scalekv_adapters.infinity.tiny.outlines import GROUND, silhouette

__all__ = ["Found", "find", "holds", "judge", "shows"]

SPECK = 20
"""Pixels; fewer are no thing."""

LIKENESS = 0.75
"""The least overlap (of what is covered by either) with an outline that makes a thing of that shape."""

PURITY = 0.9
"""The least cosine between a pixel and a colour, both from the ground, that makes it of that colour."""

_AREAS = {"circle": 3.1416, "square": 4 * 0.87**2, "triangle": 1.9}
"""Of shapes of radius 1."""

_MIDDLES = {"circle": 0.0, "square": 0.0, "triangle": 0.95 - 1.9 / 3}
"""How far below a shape's centre its centre of mass is, in radii."""


@frozen
class Found:
    """A thing in a picture; a colour or shape of None is none of the known ones.

    Attributes:
        x, y: centre of mass in pixels.
        area: in pixels.
    """

    colour: str | None
    shape: str | None
    x: float
    y: float
    area: int


def paint(image: Tensor) -> Tensor:
    """The colour of every pixel (H, W): 0 the ground, 1.. those of COLOURS, and one more for none of these.

    Args:
        image: (3, H, W) in [0, 1].
    """
    ground = torch.tensor(GROUND)
    pure = torch.tensor(list(COLOURS.values())) - ground  # (colours, 3)
    pixel = image.float().permute(1, 2, 0) - ground  # (H, W, 3)
    share = pixel @ pure.T / pure.square().sum(1)  # how much of each colour is mixed in
    cosine = pixel @ pure.T / (pixel.norm(dim=-1, keepdim=True) * pure.norm(dim=1)).clamp_min(1e-6)
    nearness, nearest = cosine.max(-1)
    strength = share.gather(-1, nearest[..., None])[..., 0]
    unknown = (nearness < PURITY) & (pixel.norm(dim=-1) > 0.35)
    colour = torch.where((strength > 0.5) & (nearness >= PURITY), nearest + 1, 0)
    return torch.where(unknown, len(COLOURS) + 1, colour)


def parts(mask: Tensor) -> Iterator[Tensor]:
    """The connected parts (H, W) bool of a mask (H, W): pixels that share a side belong together."""
    names = torch.arange(1, mask.numel() + 1).view(mask.shape) * mask
    while True:
        wide = torch.nn.functional.pad(names, (1, 1, 1, 1))
        shifted = [wide[1:-1, :-2], wide[1:-1, 2:], wide[:-2, 1:-1], wide[2:, 1:-1]]
        spread = torch.stack([names, *shifted]).amax(0) * mask
        if torch.equal(spread, names):
            break
        names = spread
    for name in names.unique().tolist():
        if name:
            yield names == name


def shape_of(part: Tensor, x: float, y: float) -> str | None:
    """The shape whose outline, of the same area and centre of mass (x, y), covers a part (H, W) best; None if none does."""
    area = float(part.sum())
    radii = torch.tensor([(area / _AREAS[shape]) ** 0.5 for shape in SHAPES])
    tops = torch.tensor([_MIDDLES[shape] for shape in SHAPES]) * radii
    centres = torch.stack([torch.full_like(tops, x), y - tops], dim=1)
    outlines = silhouette(SHAPES, centres, radii, (part.shape[0], part.shape[1])) > 0.5
    likeness = (outlines & part).sum((1, 2)) / (outlines | part).sum((1, 2))
    best = int(likeness.argmax())
    return SHAPES[best] if likeness[best] >= LIKENESS else None


def find(image: Tensor) -> tuple[Found, ...]:
    """The things in a picture (3, H, W) in [0, 1]."""
    painted, names = paint(image), (*COLOURS, None)
    found = []
    for index, colour in enumerate(names, start=1):
        for part in parts(painted == index):
            if (area := int(part.sum())) >= SPECK:
                rows, columns = part.nonzero().float().add(0.5).mean(0).tolist()
                found.append(Found(colour, shape_of(part, columns, rows), columns, rows, area))
    return tuple(found)


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
