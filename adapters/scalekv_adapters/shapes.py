"""Coloured shapes on a plain dark ground, which the small models are trained on: what they look like, and finding them in a picture.

Finding has no learned part: it would be trusted less than what it judges. Pixels get the colour whose mixture with the ground they
are nearest to; connected ones make a thing; its shape is the one whose outline of the same area and centre covers it best.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from attrs import frozen
from torch import Tensor

__all__ = ["COLOURS", "GROUND", "SHAPES", "Found", "find", "silhouette"]

COLOURS: Mapping[str, tuple[float, float, float]] = {
    "red": (0.90, 0.10, 0.10),
    "green": (0.10, 0.65, 0.15),
    "blue": (0.15, 0.25, 0.95),
    "yellow": (0.95, 0.80, 0.05),
}
"""Name of a colour to red, green and blue in [0, 1]."""

SHAPES = ("circle", "square", "triangle")

GROUND = (0.08, 0.08, 0.10)
"""The colour behind everything."""

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


def silhouette(shapes: Sequence[str], centres: Tensor, radii: Tensor, size: tuple[int, int]) -> Tensor:
    """How much of every pixel each of N shapes covers: (N, H, W) in [0, 1], from its distance to the outline.

    Args:
        shapes: N names.
        centres: (N, 2) x and y in pixels.
        radii: (N,) in pixels.
        size: height and width.
    """
    grid = torch.meshgrid(torch.arange(size[0]) + 0.5, torch.arange(size[1]) + 0.5, indexing="ij")
    dx = grid[1] - centres[:, 0, None, None]  # (N, H, W)
    dy = grid[0] - centres[:, 1, None, None]
    r = radii[:, None, None]
    sides = torch.maximum(dx.abs(), dy.abs()) - 0.87 * r
    slopes = (1.9 * dx.abs() - dy - 0.95 * r) / (1 + 1.9**2) ** 0.5
    outside = torch.stack([torch.hypot(dx, dy) - r, sides, torch.maximum(slopes, dy - 0.95 * r)])
    which = torch.tensor([SHAPES.index(shape) for shape in shapes], dtype=torch.long)
    return (0.5 - outside[which, torch.arange(len(shapes))]).clamp(0, 1)


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
