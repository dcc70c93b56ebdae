"""Training pictures with captions, from a seed, in any number.

One to three shapes, apart from each other, on a plain dark ground, with smooth edges. What is named first stands to the left,
unless the caption says where it stands. Any size of picture; positions are shares of its sides, sizes of the shorter one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from attrs import frozen
from torch import Tensor

from recipes.infinity_tiny.random_captions import random_caption
from scalekv_adapters.infinity.tiny.captions import COLOURS, RELATIONS, Caption
from scalekv_adapters.shapes import GROUND, silhouette

__all__ = ["SHARES", "Placed", "compose", "drawings", "render"]

SHARES: Mapping[str, float] = {
    "single object": 0.08,
    "colour": 0.12,
    "counting": 0.24,
    "position": 0.34,
    "two colours": 0.22,
}
"""How often each task is sampled: the harder, the more often."""

_SPOTS = {
    1: ((0.5, 0.5),),
    2: ((0.27, 0.5), (0.73, 0.5)),
    3: ((0.26, 0.28), (0.74, 0.28), (0.5, 0.73)),
}
"""Where the centres of so many things are about, as shares (across, down) of the sides."""

_RADII = {1: (0.20, 0.28), 2: (0.14, 0.18), 3: (0.13, 0.16)}
"""From which to which radius, as shares of the shorter side."""

_DRIFT = {1: (0.12, 0.12), 2: (0.04, 0.10), 3: (0.04, 0.04)}
"""How far a centre strays: along the row, as a share of that side, and across it, as a share of the shorter side."""


@frozen
class Placed:
    """A thing in a picture: its centre (x, y) and radius in pixels; it fills a box of twice the radius at most."""

    colour: str
    shape: str
    x: float
    y: float
    radius: float


def compose(caption: Caption, size: tuple[int, int], source: torch.Generator) -> tuple[Placed, ...]:
    """The things of a caption, placed in a picture of (height, width) pixels. Missing colours are sampled; one for all."""
    height, width = size
    count = len(caption.things)
    right, down = RELATIONS.get(caption.relation or "", (1, 0))
    spots = _SPOTS[count][:: right + down]
    colour = list(COLOURS)[int(torch.randint(len(COLOURS), (), generator=source))]
    rolls = (torch.rand(count, 3, generator=source) * 2 - 1).tolist()
    low, high = _RADII[count]
    placed = []
    for thing, (u, v), (a, b, r) in zip(caption.things, spots, rolls, strict=True):
        along, across = a * _DRIFT[count][0], b * _DRIFT[count][1] * min(size)
        x, y = (v * width + across, (u + along) * height) if down else ((u + along) * width, v * height + across)
        radius = (low + (high - low) * (r + 1) / 2) * min(size)
        placed.append(Placed(thing.colour or colour, thing.shape, x, y, radius))
    return tuple(placed)


def render(scenes: Sequence[Sequence[Placed]], size: tuple[int, int]) -> Tensor:
    """Pictures (N, 3, H, W) in [0, 1] of N scenes; the things of a scene do not overlap."""
    things = [thing for scene in scenes for thing in scene]
    owner = torch.tensor([i for i, scene in enumerate(scenes) for _ in scene], dtype=torch.long)
    centres = torch.tensor([(thing.x, thing.y) for thing in things]).view(-1, 2)
    cover = silhouette([t.shape for t in things], centres, torch.tensor([t.radius for t in things]), size)
    ground = torch.tensor(GROUND)
    paint = torch.tensor([COLOURS[thing.colour] for thing in things]).view(-1, 3) - ground
    pictures = ground.view(1, 3, 1, 1).repeat(len(scenes), 1, *size)
    return pictures.index_add_(0, owner, cover[:, None] * paint[:, :, None, None])


def drawings(
    count: int, size: tuple[int, int], source: torch.Generator, shares: Mapping[str, float] = SHARES
) -> tuple[list[Caption], Tensor]:
    """Captions and pictures (N, 3, H, W) in [0, 1], the same for the same source.

    Args:
        count: N.
        size: height and width in pixels.
        source: all randomness.
        shares: how often each task is sampled.

    >>> captions, pictures = drawings(2, (64, 48), torch.Generator().manual_seed(0))
    >>> len(captions), pictures.shape
    (2, torch.Size([2, 3, 64, 48]))
    """
    tasks = list(shares)
    picks = torch.multinomial(torch.tensor(list(shares.values())), count, replacement=True, generator=source)
    captions = [random_caption(tasks[pick], source) for pick in picks.tolist()]
    return captions, render([compose(caption, size, source) for caption in captions], size)
