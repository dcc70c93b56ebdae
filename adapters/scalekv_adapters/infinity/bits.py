"""Bit labels: what one map of Infinity says, and how the maps add up to a latent image.

A map is known in two forms. *Bits* (B, d, h, w) lie on the grid of the VAE. *Tokens* (B, n, d') are what the transformer
reads and names; with spatial patchify a token holds the bits of a 2 x 2 patch, d' = 4 d, else d' = d. Both are bool.
Source: Han et al., Infinity, 2024 (arXiv 2412.04431), sections 3.2 and 3.3.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from scalekv_core.errors import InputError

Grid = tuple[int, int]
"""Rows and columns of a map."""


def codes_of(bits: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """The codes (B, d, h, w) of bits (B, d, h, w): +-1/sqrt(d), so that every vector has length 1.

    >>> codes_of(torch.tensor([True, False, True, True]).view(1, 4, 1, 1)).flatten().tolist()
    [0.5, -0.5, 0.5, 0.5]
    """
    return (bits.to(dtype) * 2 - 1) / bits.shape[1] ** 0.5


def add_bits(total: Tensor, bits: Tensor) -> Tensor:
    """The sum (B, d, H, W) of the codes so far with those of one more map (B, d, h, w), a new tensor."""
    return total + on_grid(codes_of(bits, total.dtype), grid_of(total))


def on_grid(total: Tensor, grid: Grid) -> Tensor:
    """A map (B, d, H, W) brought to another grid, bilinearly, without aligned corners and without antialiasing."""
    return total if grid_of(total) == grid else F.interpolate(total, size=grid, mode="bilinear")


def grid_of(maps: Tensor) -> Grid:
    """Rows and columns of (..., h, w)."""
    return maps.shape[-2], maps.shape[-1]


def to_tokens(maps: Tensor, patch: int = 1) -> Tensor:
    """Tokens (B, n, d patch^2) of bits, or of summed codes, (B, d, h, w), row-major.

    >>> to_tokens(torch.arange(4).view(1, 1, 2, 2), patch=2).tolist()
    [[[0, 1, 2, 3]]]
    """
    return F.pixel_unshuffle(maps, patch).flatten(2).mT


def to_bits(tokens: Tensor, grid: Grid, patch: int = 1) -> Tensor:
    """Bits (B, d, h, w) of tokens (B, n, d patch^2); the inverse of `to_tokens`.

    Raises:
        InputError: there are not as many tokens as the grid has patches.

    >>> bits = torch.rand(2, 4, 6, 4) < 0.5
    >>> torch.equal(to_bits(to_tokens(bits, 2), (6, 4), 2), bits)
    True
    """
    h, w = grid[0] // patch, grid[1] // patch
    if tokens.dim() != 3 or tokens.shape[1] != h * w:
        raise InputError(
            f"a map of {grid[0]} x {grid[1]} needs tokens (B, {h * w}, bits) where a token holds {patch} x {patch}; "
            f"got {tuple(tokens.shape)}"
        )
    return F.pixel_shuffle(tokens.mT.unflatten(2, (h, w)), patch)
