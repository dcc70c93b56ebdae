"""Bit labels of clips: what one map of InfinityStar says, and how the maps add up to a latent clip.

A map is known in two forms. *Bits* (B, d, t, h, w) lie on its grid. *Tokens* (B, n, d), n = t h w, are what the transformer reads
and names; both are bool. Small maps have *semantic* bits, d = 16, large ones *detail* bits, d = 64; the codes of both add to the
same 64 channels, a sum of which is a latent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from scalekv_core.errors import InputError

Map = tuple[int, int, int]
"""Frames, rows and columns."""


def codes_of(bits: Tensor, like: Tensor) -> Tensor:
    """The codes (B, C, t, H, W) of bits (B, d, t, h, w): +-1/sqrt(d), so that every vector has length 1, brought to the
    channels and sides of ``like``, each frame by itself.

    Channels are interpolated like sides (trilinearly); where d = C they remain as they are.

    >>> codes_of(torch.ones(1, 16, 2, 1, 1) > 0, torch.zeros(1, 64, 2, 3, 4)).unique().tolist()
    [0.25]
    """
    codes = (bits.to(like.dtype) * 2 - 1) / bits.shape[1] ** 0.5
    return _each_frame(codes, lambda frames: F.interpolate(frames, size=_volume(like), mode="trilinear"))


def add_bits(total: Tensor, bits: Tensor) -> Tensor:
    """The sum (B, C, t, H, W) of the codes so far with those of one more map (B, d, t, h, w), a new tensor."""
    return total + codes_of(bits, total)


def pooled(total: Tensor, grid: Map) -> Tensor:
    """What the transformer embeds for a map (t, h, w): the sum so far, averaged to (B, C, t, h, w)."""
    return F.adaptive_avg_pool3d(total, grid)


@torch.no_grad()
def quantize(
    features: Tensor, maps: Sequence[Map], widths: Sequence[int]
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The bits of every step of one pyramid, and the sum of the codes before each step, from which its input is pooled.

    Args:
        features: (B, C, t, H, W) float32 of the pyramid's frames.
        maps: of every step; a repeated scale stands there as often as it is repeated.
        widths: bits of a position at each step.

    Returns:
        Bits (B, d, t, h, w) bool, and sums (B, C, t, H, W), of each step.

    Raises:
        InputError: a map has other frames than the features, or is larger.
    """
    bits: list[Tensor] = []
    sums = [torch.zeros_like(features)]
    for grid, width in zip(maps, widths, strict=True):
        _check_map(grid, features)
        bits.append(_reduced(features - sums[-1], (width, *grid[1:])) > 0)
        sums.append(add_bits(sums[-1], bits[-1]))
    return tuple(bits), tuple(sums[:-1])


def to_tokens(maps: Tensor) -> Tensor:
    """Tokens (B, n, d) of bits, or of summed codes, (B, d, t, h, w): frame by frame, row by row."""
    return maps.flatten(2).mT


def to_bits(tokens: Tensor, grid: Map) -> Tensor:
    """Bits (B, d, t, h, w) of tokens (B, n, d); the inverse of `to_tokens`.

    Raises:
        InputError: there are not as many tokens as the map has positions.
    """
    t, h, w = grid
    if tokens.dim() != 3 or tokens.shape[1] != t * h * w:
        raise InputError(f"a map of {t} x {h} x {w} needs tokens (B, {t * h * w}, bits); got {tuple(tokens.shape)}")
    return tokens.mT.unflatten(2, grid)


def _reduced(residual: Tensor, volume: Map) -> Tensor:
    """Means (B, d, t, h, w) over channels, rows and columns of every frame of (B, C, t, H, W)."""
    return _each_frame(residual, lambda frames: F.adaptive_avg_pool3d(frames, volume))


def _each_frame(x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """(B, C', t, H', W') where ``change`` makes volumes (B t, 1, C', H', W') of (B t, 1, C, H, W)."""
    volumes = x.transpose(1, 2).flatten(0, 1)[:, None]
    return change(volumes)[:, 0].unflatten(0, (x.shape[0], x.shape[2])).transpose(1, 2)


def _volume(like: Tensor) -> Map:
    """Channels, rows and columns of (B, C, t, H, W)."""
    return like.shape[1], like.shape[3], like.shape[4]


def _check_map(grid: Map, features: Tensor) -> None:
    t, h, w = features.shape[2:]
    if grid[0] != t or not 0 < grid[1] <= h or not 0 < grid[2] <= w:
        raise InputError(
            f"features of {t} x {h} x {w} are quantised by maps of {t} frame{'s' * (t > 1)} that are not larger; got "
            f"{' x '.join(map(str, grid))}"
        )
