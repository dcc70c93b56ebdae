"""Where a token lies, told to attention by rotating queries and keys: a quarter of a head's width each for the step, the frame,
the row and the column.

Source: InfinityStar (arXiv 2511.04675), its rotary embedding in four parts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from attrs import frozen
from torch import Tensor

from scalekv_adapters.infinitystar.pyramids import Grid, Pass

BASE = 10_000.0


@frozen(eq=False)
class Rotation:
    """Rotations of the tokens that pass the blocks together, (n, D/2) numbers cos + i sin."""

    turns: Tensor

    @classmethod
    def of(cls, where: Tensor, head_dim: int, device: torch.device) -> Rotation:
        """Of tokens that lie there, (n, 4): step, frame, row, column."""
        quarter = head_dim // 8  # pairs of components
        theta = BASE ** (-torch.arange(quarter, device="cpu", dtype=torch.float32) / quarter)
        angles = (where[..., None] * theta).flatten(1)
        return cls(torch.complex(angles.cos(), angles.sin()).to(device))

    def turn(self, x: Tensor) -> Tensor:
        """x (B, H, n, D) with each pair of neighbouring components rotated by its token's angle, in the dtype of x."""
        pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)).contiguous())
        return torch.view_as_real(pairs * self.turns).flatten(-2).to(x.dtype)


def text_places(tokens: int) -> Tensor:
    """(T, 4) where text lies: one token after the other, in the step's part alone."""
    where = torch.zeros(tokens, 4, device="cpu")
    where[:, 0] = torch.arange(tokens, device="cpu")
    return where


def on_the_last(count: int, whole: int) -> Tensor:
    """(count,) where the rows (or columns) of a map lie among those of the last one; halves go to the even one.

    >>> on_the_last(2, 5).tolist()
    [0.0, 2.0]
    """
    return (torch.arange(count, device="cpu") * (whole / count)).round()


def map_places(step: int, frames: Sequence[int], grid: Grid, whole: Grid) -> Tensor:
    """(n, 4) where the tokens of a map lie.

    Args:
        step: of the whole generation, counted behind the text's window.
        frames: the latent frames of the map.
        grid: its rows and columns.
        whole: those of the last map, on which all are counted; halves go to the even one.

    >>> map_places(512, [3], (2, 1), (5, 1)).tolist()
    [[512.0, 3.0, 0.0, 0.0], [512.0, 3.0, 2.0, 0.0]]
    """
    axes = [
        torch.tensor([float(step)], device="cpu"),
        torch.tensor([float(frame) for frame in frames], device="cpu"),
        on_the_last(grid[0], whole[0]),
        on_the_last(grid[1], whole[1]),
    ]
    return torch.cartesian_prod(*axes)


def pass_places(each: Pass, window: int, whole: Grid) -> Tensor:
    """(n, 4) where the tokens of a pass lie, behind a text window of so many tokens."""
    frames = range(each.first_frame, each.first_frame + each.grid[0])
    return map_places(window + each.number, frames, each.grid[1:], whole)
