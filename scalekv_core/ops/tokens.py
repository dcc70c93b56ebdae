"""Choosing and gathering tokens: which are the best, where they are, and their keys and values in new memory."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def top_tokens(scores: Tensor, keep: int) -> Tensor:
    """(B, H, keep) indices of the highest scores, ascending.

    Args:
        scores: (B, H, N), ``keep <= N``.

    >>> top_tokens(torch.tensor([[[0.1, 0.9, 0.5, 0.7]]]), 2)
    tensor([[[1, 3]]])
    """
    best = scores.topk(keep, dim=-1, sorted=False).indices
    if best.device.type == "cpu":  # numpy sorts several times faster
        return torch.from_numpy(np.sort(best.numpy(), axis=-1))
    return best.sort(dim=-1).values


def largest(x: Tensor) -> Tensor:
    """(...) index of the largest number along the last axis, the first of several."""
    if x.device.type == "cpu":  # numpy is many times faster
        return torch.from_numpy(x.numpy().argmax(axis=-1))
    return x.argmax(dim=-1)


def all_tokens(x: Tensor, start: int, stop: int) -> Tensor:
    """(B, H, stop - start) the indices ``start:stop`` for every row and head of x (B, H, ...)."""
    return torch.arange(start, stop, device=x.device).expand(x.shape[0], x.shape[1], -1)


def run_index(runs: tuple[tuple[int, int], ...], *, device: torch.device) -> Tensor:
    """(N,) int64 the numbers of all runs (start, stop), one behind the other.

    >>> run_index(((0, 2), (5, 7)), device=torch.device("cpu"))
    tensor([0, 1, 5, 6])
    """
    return torch.cat([torch.arange(start, stop, device=device) for start, stop in runs or ((0, 0),)])


def at_positions(table: Tensor, positions: Tensor) -> Tensor:
    """(B, H, N) what a table (tokens of the sequence,) says of each position.

    >>> at_positions(torch.tensor([5, 6, 7]), torch.tensor([[[0, 2]]], dtype=torch.int32))
    tensor([[[5, 7]]])
    """
    return table.index_select(0, positions.reshape(-1)).view(positions.shape)


def token_starts(rows: int, of: int, heads: int, tokens: int, *, device: torch.device) -> Tensor:
    """(rows / of, of, H, 1) where the tokens of each row and head begin, when all of them lie one behind the other."""
    return torch.arange(0, rows * heads * tokens, tokens, device=device).view(-1, of, heads, 1)


def flat_index(index: Tensor, rows: int, tokens: int, starts: Tensor | None = None) -> Tensor:
    """(rows H keep,) the same tokens, counted through all rows and heads of a (rows, H, N, ...) tensor.

    Args:
        index: (B, H, keep) int64; where ``rows`` is a multiple of B, it holds for each B rows.
        rows, tokens: of that tensor.
        starts: what :func:`token_starts` returns, if it is there already.
    """
    if starts is None:
        starts = token_starts(rows, index.shape[0], index.shape[1], tokens, device=index.device)
    return (starts + index).view(-1)


def gather_tokens(x: Tensor, index: Tensor, starts: Tensor | None = None) -> Tensor:
    """(rows, H, keep, ...) the tokens of x at ``index``, in new memory.

    Args:
        x: (rows, H, N, ...).
        index, starts: as :func:`flat_index` takes them.

    >>> gather_tokens(torch.tensor([[[[1.0], [2.0], [3.0]]]]), torch.tensor([[[0, 2]]])).flatten()
    tensor([1., 3.])
    """
    if x.dim() == 3 and x.shape[0] == index.shape[0]:
        return x.gather(2, index)
    if not x.is_contiguous():
        wide = index.repeat(x.shape[0] // index.shape[0], 1, 1)
        return x.gather(2, wide.view(*wide.shape, *(1,) * (x.dim() - 3)).expand(*wide.shape, *x.shape[3:]))
    return take_tokens(x, flat_index(index, x.shape[0], x.shape[2], starts), index.shape[2])


def take_tokens(x: Tensor, flat: Tensor, keep: int) -> Tensor:
    """(rows, H, keep, ...) the tokens of x (rows, H, N, ...) at an index that :func:`flat_index` has made.

    Whole tokens are copied at once, on a CPU several times faster than an element-wise gather.
    """
    rows, heads, _, *rest = x.shape
    return x.reshape(-1, *rest).index_select(0, flat).view(rows, heads, keep, *rest)


def tight(x: Tensor) -> Tensor:
    """x in storage of its own size: itself, or a copy if it is a view of something larger."""
    return x if x.untyped_storage().nbytes() == x.nbytes else x.clone(memory_format=torch.contiguous_format)
