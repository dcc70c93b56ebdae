"""Folding tokens into others: weighted means, in the same order every time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from scalekv_core.ops.chunks import blocks, default_chunk_bytes


def fold(x: Tensor, weights: Tensor, counts: Tensor, target: Tensor, keep: int) -> tuple[Tensor, Tensor]:
    """Weighted means (rows, H, keep, D) of the tokens folded together, and how many tokens each stands for (B, H, keep).

    Args:
        x: (rows, H, N, D); where there is a multiple of B rows, each B of them are folded alike.
        weights: (B, H, N) float32, greater than zero.
        counts: (B, H, N) float32, whole numbers: their sums are the same in any order.
        target: (B, H, N) which of the ``keep`` tokens each goes to; -1 drops it.

    >>> x = torch.tensor([[[[1.0], [3.0], [9.0]]]])
    >>> means, counts = fold(x, torch.tensor([[[3.0, 1.0, 1.0]]]), torch.ones(1, 1, 3), torch.tensor([[[0, 0, -1]]]), 1)
    >>> means.item(), counts.item()
    (1.5, 2.0)
    """
    rows, heads, tokens, width = x.shape
    at_once = max(1, default_chunk_bytes(x.device) // (4 * tokens * width))
    means = x.new_empty(rows, heads, keep, width)
    totals = counts.new_empty(*counts.shape[:2], keep)
    parts, into = (y.chunk(rows // counts.shape[0]) for y in (x, means))
    for weight, count, goes, total, *some in blocks(at_once, weights, counts, target, totals, *parts, *into):
        _fold_block(some[: len(parts)], weight, count, goes, some[len(parts) :], total)
    return means, totals


def _fold_block(
    parts: Sequence[Tensor], weights: Tensor, counts: Tensor, target: Tensor, means: Sequence[Tensor], totals: Tensor
) -> None:
    """Writes what ``fold`` returns for some rows and heads; sums are in float32, as weights are.

    Tokens are sorted by where they go and summed bag by bag, in the same order every time; adding them where they go
    would depend, on a GPU, on which comes first.
    """
    rows, heads, keep = totals.shape
    bins = keep + 1  # the first of each head takes what is dropped, and is left out
    first = torch.arange(1, rows * heads * bins, bins, device=target.device).view(rows, heads, 1)
    bin_of, order = _sorted_bins((target + first).flatten(), rows * heads * bins)
    starts = torch.searchsorted(bin_of, torch.arange(rows * heads * bins, device=target.device))

    def summed(x: Tensor, shares: Tensor | None = None) -> Tensor:
        return F.embedding_bag(order, x, starts, mode="sum", per_sample_weights=shares)

    def without_dropped(x: Tensor) -> Tensor:
        return x.view(rows, heads, bins, -1)[:, :, 1:]

    weight_of_bins = summed(weights.reshape(-1, 1))
    count_of_bins = weight_of_bins if weights is counts else summed(counts.reshape(-1, 1))
    totals.copy_(without_dropped(count_of_bins).squeeze(3))
    # A kept token into which nothing is folded has a share of 1, and does not change by a bit.
    shares = weights.reshape(-1).index_select(0, order) / weight_of_bins.view(-1).index_select(0, bin_of)
    for x, mean in zip(parts, means, strict=True):
        mean.copy_(without_dropped(summed(x.float().reshape(-1, x.shape[3]), shares)))


def _sorted_bins(bin_of: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    """(N,) the bins in ascending order, and where each of them was; tokens of one bin remain in their order.

    Args:
        bin_of: (N,) int64 in 0..bins-1.
        bins: how many there are.
    """
    if bin_of.device.type == "cpu":  # numpy sorts 16 bits by radix, several times faster
        numbers = bin_of.numpy()
        narrow = numbers.astype(np.uint16) if bins <= 2**16 else numbers
        order = torch.from_numpy(np.argsort(narrow, kind="stable"))
        return bin_of.index_select(0, order), order
    return bin_of.sort(stable=True)
