"""Tokens on the maps they come from: patches of a map, and pooling over neighbours in the picture."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from scalekv_core import ops
from scalekv_core.contracts.view import CacheView
from scalekv_core.shapes.schedule import ScaleSchedule


def patch_grid(sizes: tuple[int, ...], patches: int) -> tuple[int, ...]:
    """(frames, rows, columns) of a grid of at most ``patches`` patches that are nearly square.

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


def grid_shape(schedule: ScaleSchedule, scale: int, margin: int) -> tuple[int, int]:
    """(rows, columns) of one grid that has all maps of scales 0..scale one below the other, with ``margin`` between them."""
    maps = schedule.maps[: scale + 1]
    return sum(t * (h + margin) for t, h, _ in maps), max(w for _, _, w in maps) + margin


def grid_places(schedule: ScaleSchedule, scale: int, margin: int, device: torch.device) -> Tensor:
    """(tokens of scales 0..scale) int64: where each lies in the grid, counted row by row.

    Every row ends in ``margin`` empty columns, every frame in ``margin`` empty rows: who looks no farther than that in any
    direction sees a token's own map and frame only.

    >>> grid_places(ScaleSchedule.square(1, 2), 1, 1, torch.device("cpu"))
    tensor([ 0,  6,  7,  9, 10])
    """
    _, columns = grid_shape(schedule, scale, margin)
    places, top = [], 0
    for t, h, w in schedule.maps[: scale + 1]:
        frames, lines, across = (torch.arange(size, device=device) for size in (t, h, w))
        rows = top + frames[:, None] * (h + margin) + lines
        places.append((rows[..., None] * columns + across).flatten())
        top += t * (h + margin)
    return torch.cat(places)


def pool_average(scores: Tensor, view: CacheView, kernel: int) -> Tensor:
    """(B, H, N) mean score of the tokens in view within kernel x kernel on the same map (and frame).

    Args:
        scores: (B, H, N) float32.
        view: whose tokens they are of.
        kernel: odd side of the neighbourhood.
    """
    margin = kernel // 2
    rows, columns = grid_shape(view.schedule, view.scale, margin)
    places = _places(view, margin)
    before = margin * columns + margin  # of the first token, so that it has neighbours on all sides too
    grids = scores.new_zeros(2, *scores.shape[:2], before + rows * columns + before)
    values, present = grids[..., before:].unbind()
    values.scatter_(2, places, scores)
    present.scatter_(2, places, 1.0)
    sums = _sums_of(_sums_of(grids, kernel, 1), kernel, columns)
    total, number = sums.gather(3, places.expand(2, *places.shape))
    return total / number


def pool_max(scores: Tensor, view: CacheView, kernel: int) -> Tensor:
    """(B, H, N) best score of the tokens in view within kernel x kernel on the same map; arguments as `pool_average`."""
    margin = kernel // 2
    rows, columns = grid_shape(view.schedule, view.scale, margin)
    places = _places(view, margin)
    grid = scores.new_full((*scores.shape[:2], rows * columns), -torch.inf).scatter_(2, places, scores)
    best = F.max_pool2d(grid.unflatten(2, (rows, columns)), kernel, stride=1, padding=margin)
    return best.flatten(2).gather(2, places)


def _places(view: CacheView, margin: int) -> Tensor:
    return ops.at_positions(view.table(grid_places, view.schedule, view.scale, margin), view.positions)


def _sums_of(x: Tensor, number: int, step: int) -> Tensor:
    """(..., L - (number - 1) step) sums of so many numbers of x (..., L), ``step`` apart, beginning at each."""
    length = x.shape[-1] - (number - 1) * step
    return x.as_strided((*x.shape[:-1], number, length), (*x.stride()[:-1], step, 1)).sum(-2)
