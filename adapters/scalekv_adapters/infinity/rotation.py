"""Where a token lies, told to attention by rotating queries and keys: half of a head's width for the row, half for the column.

Rows and columns are counted on the last map of the aspect ratio's whole list, so the same place has the same rotation at
every scale and in every size. Source: Infinity (arXiv 2412.04431), two-dimensional rotary embedding.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from attrs import frozen
from torch import Tensor

from scalekv_adapters.infinity.precision import wide
from scalekv_adapters.infinity.templates import Canvas

BASE = 10000.0


@frozen(eq=False)
class Rotation:
    """Rotations of some tokens of an image, (n, D/2) numbers cos + i sin."""

    turns: Tensor

    @classmethod
    def of(cls, canvas: Canvas, head_dim: int, device: torch.device) -> Rotation:
        """Those of all tokens of all maps of this canvas, in order."""
        return cls(_table(canvas, head_dim).to(device))

    def part(self, start: int, stop: int) -> Rotation:
        """Those of the tokens ``start:stop``."""
        return Rotation(self.turns[start:stop])

    def turn(self, x: Tensor) -> Tensor:
        """x (B, H, n, D), in float32, with each pair of neighbouring components rotated by the angle of its token.

        A pair is a complex number, and turning it one product: a single pass over x.
        """
        pairs = torch.view_as_complex(wide(x).unflatten(-1, (-1, 2)))
        return torch.view_as_real(pairs * self.turns).flatten(-2)


def places(count: int, whole: int) -> Tensor:
    """(count,) where the rows (or columns) of a map with so many of them lie among ``whole``; halves go to the even one.

    >>> places(6, 64)
    tensor([ 0., 11., 21., 32., 43., 53.])
    """
    return (torch.arange(count, device="cpu") * (whole / count)).round()


def rows_and_columns(canvas: Canvas) -> tuple[Tensor, Tensor]:
    """(L,) the row and the column of every token, counted on the last map of the canvas's whole list."""
    height, width = canvas.whole
    grids = [(places(h, height)[:, None].expand(h, w), places(w, width)[None].expand(h, w)) for h, w in canvas.maps]
    rows, columns = zip(*((row.flatten(), column.flatten()) for row, column in grids), strict=True)
    return torch.cat(rows), torch.cat(columns)


@lru_cache(maxsize=8)
def _table(canvas: Canvas, head_dim: int) -> Tensor:
    """cos + i sin (L, D/2) on the CPU; made outside of inference mode, for training may want them later."""
    with torch.inference_mode(False), torch.device("cpu"):
        exponents = torch.arange(0, head_dim // 2, 2, dtype=torch.float32) / (head_dim // 2)
        theta = 1.0 / BASE**exponents  # (D/4,)
        rows, columns = rows_and_columns(canvas)
        angles = torch.cat((torch.outer(rows, theta), torch.outer(columns, theta)), dim=-1)
        return torch.complex(angles.cos(), angles.sin())
