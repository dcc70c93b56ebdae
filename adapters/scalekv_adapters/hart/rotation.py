"""HART's rotary embedding: of text tokens in one dimension, of map tokens in two.

In two dimensions it is no rotation: a component and its partner half a head further are turned by different angles, that of
the row and that of the column. The published weights were trained so.
"""

from __future__ import annotations

import torch
from attrs import frozen
from torch import Tensor

BASE = 10_000.0


@frozen(eq=False)
class Rotation:
    """Cosines and sines (B, 1, n, D) of the tokens that pass the blocks together."""

    cos: Tensor
    sin: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """x (B, H, n, D) turned: x cos + (-second half of x, first half) sin."""
        first, second = x.chunk(2, dim=-1)
        turned: Tensor = x * self.cos + torch.cat((-second, first), dim=-1) * self.sin
        return turned

    @classmethod
    def of(cls, angles: Tensor, dtype: torch.dtype) -> Rotation:
        """Of angles (B, n, D)."""
        return cls(angles.cos().to(dtype).unsqueeze(1), angles.sin().to(dtype).unsqueeze(1))


def text_angles(real: Tensor, width: int) -> Tensor:
    """Angles (B, T, D) of text tokens: p * 10000^(-2 m / D), p the number of real tokens before it; padding repeats the last.

    Args:
        real: (B, T) bool, which tokens are no padding.
        width: D.
    """
    places = real.cumsum(1).float() - 1
    theta = BASE ** (-torch.arange(0, width, 2, device=real.device).float() / width)
    angles = places[..., None] * theta
    return torch.cat((angles, angles), dim=-1)


def map_angles(side: int, last: int, offset: Tensor, width: int) -> Tensor:
    """Angles (B, side * side, D) of a square map: those of the row, twice, and those of the column, twice.

    Args:
        side, last: of this map, and of the last one, on whose grid all maps lie.
        offset: (B,) the place of the last text token.
        width: D.
    """
    theta = BASE ** (-4 * torch.arange(width // 4, device=offset.device).float() / width)
    along = torch.arange(side, device=offset.device).float() / side * last + offset.float()[:, None]  # (B, side)
    each = along[..., None] * theta  # (B, side, D / 4)
    rows = each.unsqueeze(2).expand(-1, -1, side, -1)
    columns = each.unsqueeze(1).expand(-1, side, -1, -1)
    return torch.cat((rows, rows, columns, columns), dim=-1).flatten(1, 2)
