"""Tokens on the maps they come from: patches of a map, and pooling over neighbours in the picture."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from scalekv_core.shapes.schedule import ScaleSchedule


def patch_grid(sizes: tuple[int, ...], patches: int) -> tuple[int, ...]:
    """How many patches in each direction: at most ``patches`` in all, about as long as wide.

    >>> patch_grid((1, 20, 20), 16), patch_grid((1, 42, 24), 16), patch_grid((1, 2, 3), 16), patch_grid((1, 20, 2), 16)
    ((1, 4, 4), (1, 5, 3), (1, 2, 3), (1, 16, 1))
    """
    grid = list(sizes)
    order = sorted(range(len(sizes)), key=lambda axis: sizes[axis])
    for place, axis in enumerate(order):
        rest = [sizes[other] for other in order[place:]]
        ideal = sizes[axis] * (patches / math.prod(rest)) ** (1 / len(rest))
        grid[axis] = max(1, min(sizes[axis], patches, round(ideal)))
        patches //= grid[axis]
    return tuple(grid)


@lru_cache(maxsize=256)
def patch_centres(sizes: tuple[int, ...], patches: int, device: torch.device) -> Tensor:
    """(W,) the tokens in the middle of the patches, as indices into the map: floor((2 i + 1) size / (2 patches)) each way.

    >>> patch_centres((1, 4, 6), 6, torch.device("cpu"))
    tensor([ 7,  9, 11, 19, 21, 23])
    """
    index = torch.zeros(1, dtype=torch.int64, device=device)
    for size, number in zip(sizes, patch_grid(sizes, patches), strict=True):
        along = (2 * torch.arange(number, device=device) + 1) * size // (2 * number)
        index = (index[:, None] * size + along).flatten()
    return index


def pool_average(scores: Tensor, positions: Tensor, schedule: ScaleSchedule, scale: int, kernel: int) -> Tensor:
    """(B, H, N) mean score of the tokens present within kernel x kernel on the same map (and frame).

    Args:
        scores: (B, H, N).
        positions: (B, H, N) int64, where each token is in the sequence of scales 0..scale.
        schedule, scale: the maps.
        kernel: odd side of the neighbourhood.
    """
    canvas = scores.new_zeros(2, *scores.shape[:2], schedule.seen[scale])  # scores, and where there is one
    canvas[0].scatter_(2, positions, scores)
    canvas[1].scatter_(2, positions, 1.0)
    sums = _on_maps(_box_sum, canvas, schedule, scale, kernel)
    total, present = sums.gather(3, positions.expand(2, *positions.shape))
    return total / present


def pool_max(scores: Tensor, positions: Tensor, schedule: ScaleSchedule, scale: int, kernel: int) -> Tensor:
    """(B, H, N) best score of the tokens present within kernel x kernel on the same map; arguments as `pool_average`."""
    canvas = scores.new_full((*scores.shape[:2], schedule.seen[scale]), -torch.inf)
    canvas.scatter_(2, positions, scores)
    return _on_maps(_box_max, canvas, schedule, scale, kernel).gather(2, positions)


def _box_sum(frames: Tensor, kernel: int) -> Tensor:
    """Sums over kernel x kernel, zero outside: shifted adds, several times faster on a CPU than ``avg_pool2d``."""
    height, width = frames.shape[-2:]
    padded = F.pad(frames, (kernel // 2,) * 4)
    lines = sum((padded[..., shift : shift + width] for shift in range(1, kernel)), padded[..., :width])
    return sum((lines[..., shift : shift + height, :] for shift in range(1, kernel)), lines[..., :height, :])


def _box_max(frames: Tensor, kernel: int) -> Tensor:
    return F.max_pool2d(frames, kernel, stride=1, padding=kernel // 2)


def _on_maps(
    pool: Callable[[Tensor, int], Tensor], canvas: Tensor, schedule: ScaleSchedule, scale: int, kernel: int
) -> Tensor:
    """The canvas (..., tokens of scales 0..scale), each map of it pooled in two dimensions."""
    pooled = []
    for part, (t, h, w) in zip(canvas.split(schedule.tokens[: scale + 1], dim=-1), schedule.maps, strict=False):
        frames = part.reshape(-1, t, h, w)
        pooled.append(pool(frames, kernel).reshape(part.shape))
    return torch.cat(pooled, dim=-1)
