"""Training clips with captions, from a seed, in any number: one shape with smooth edges that moves evenly on a plain dark ground."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from attrs import frozen
from torch import Tensor

from scalekv_adapters.infinitystar.tiny.captions import COLOURS, DIRECTIONS, SHAPES, Caption
from scalekv_adapters.shapes import GROUND, silhouette

__all__ = ["RADII", "Moving", "film", "movies", "wandering"]

RADII = (13.0, 17.0)
"""From which to which radius, in pixels."""

SPEEDS = (1.2, 1.5)
"""From which to which speed of a caption's shape, in pixels a frame."""

FASTEST = 4.0
"""The most that a wandering shape moves in a frame, across and down: fast enough to leave its place within a few frames, as
tokenizing a long clip needs."""

MARGIN = 2.0
"""Pixels between a shape of a caption and the edge."""

SIDEWAYS = 0.3
"""How far from the middle a path lies at most, as a share of the side."""


@frozen
class Moving:
    """A shape: where its centre (x, y) is in the first frame, and how far it moves in a frame; all in pixels."""

    colour: str
    shape: str
    radius: float
    start: tuple[float, float]
    velocity: tuple[float, float]


def film(things: Sequence[Moving], frames: int, side: int) -> Tensor:
    """Clips (B, 3, F, side, side) in [0, 1], of one thing each."""
    starts = torch.tensor([thing.start for thing in things])
    velocities = torch.tensor([thing.velocity for thing in things])
    centres = starts[:, None] + torch.arange(frames)[:, None] * velocities[:, None]  # (B, F, 2)
    shapes = [thing.shape for thing in things for _ in range(frames)]
    radii = torch.tensor([thing.radius for thing in things]).repeat_interleave(frames)
    cover = silhouette(shapes, centres.flatten(0, 1), radii, (side, side)).unflatten(0, (len(things), frames))
    ground = torch.tensor(GROUND).view(1, 3, 1, 1, 1)
    paint = torch.tensor([COLOURS[thing.colour] for thing in things]).view(-1, 3, 1, 1, 1)
    return ground + cover[:, None] * (paint - ground)


def wandering(count: int, frames: int, side: int, source: torch.Generator) -> Tensor:
    """Clips (B, 3, F, side, side) in [0, 1] of shapes that move anywhere, even out of the picture: for the tokenizer."""
    rolls = torch.rand(count, 5, generator=source).tolist()
    things = [
        Moving(
            *_looks(source, r),
            start=(x * side, y * side),
            velocity=((2 * u - 1) * FASTEST, (2 * v - 1) * FASTEST),
        )
        for r, x, y, u, v in rolls
    ]
    return film(things, frames, side)


def movies(captions: Sequence[Caption], frames: int, side: int, source: torch.Generator) -> Tensor:
    """Clips (B, 3, F, side, side) in [0, 1] of captions; the shape stays within the picture.

    >>> clips = movies([Caption("red", "circle", "up")], 33, 96, torch.Generator().manual_seed(0))
    >>> clips.shape
    torch.Size([1, 3, 33, 96, 96])
    """
    return film([_placed(caption, frames, side, source) for caption in captions], frames, side)


def _placed(caption: Caption, frames: int, side: int, source: torch.Generator) -> Moving:
    r, pace, along, across = torch.rand(4, generator=source).tolist()
    radius = _between(RADII, r)
    speed = _between(SPEEDS, pace)
    right, down = DIRECTIONS[caption.direction]
    spare = side - 2 * (radius + MARGIN) - speed * (frames - 1)  # of the path, along its direction
    begin = radius + MARGIN + along * max(0.0, spare)
    if right + down < 0:
        begin = side - begin
    middle = side / 2 + (2 * across - 1) * SIDEWAYS * side
    start = (begin, middle) if right else (middle, begin)
    return Moving(caption.colour, caption.shape, radius, start, (right * speed, down * speed))


def _looks(source: torch.Generator, r: float) -> tuple[str, str, float]:
    """A random colour and shape, and the radius of this roll."""
    pick = [int(torch.randint(len(names), (), generator=source)) for names in (COLOURS, SHAPES)]
    return list(COLOURS)[pick[0]], SHAPES[pick[1]], _between(RADII, r)


def _between(limits: tuple[float, float], share: float) -> float:
    return limits[0] + (limits[1] - limits[0]) * share
