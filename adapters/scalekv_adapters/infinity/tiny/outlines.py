"""What the shapes of infinity-tiny look like: its training data are made of them, and its judge looks for them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from scalekv_adapters.infinity.tiny.captions import SHAPES

__all__ = ["GROUND", "silhouette"]

GROUND = (0.08, 0.08, 0.10)
"""The colour behind everything."""


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
