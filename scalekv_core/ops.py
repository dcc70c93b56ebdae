"""The tensor functions of the hot path: no loop over rows or tokens, no device sync, memory bounded by a stated number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK_BYTES = 64 * 2**20
"""The most that one chunk of attention probabilities may take."""
CHUNK_BYTES_CPU = 8 * 2**20
"""The same on a CPU, where chunks that fit into its cache are more than twice as fast as larger ones."""


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


def all_tokens(x: Tensor, start: int, stop: int) -> Tensor:
    """(B, H, stop - start) the indices ``start:stop`` for every row and head of x (B, H, ...)."""
    return torch.arange(start, stop, device=x.device).expand(x.shape[0], x.shape[1], -1)


def run_index(runs: tuple[tuple[int, int], ...], *, device: torch.device) -> Tensor:
    """(N,) int64 the numbers of all runs (start, stop), one behind the other.

    >>> run_index(((0, 2), (5, 7)), device=torch.device("cpu"))
    tensor([0, 1, 5, 6])
    """
    return torch.cat([torch.arange(start, stop, device=device) for start, stop in runs or ((0, 0),)])


def side_by_side(q: Tensor, heads: int) -> Tensor:
    """(B, H, g n, D) queries (B, g H, n, D), those of the g query heads that share a key/value head one behind the other.

    No query sees another, so attention needs no repeated keys.
    """
    return q if q.shape[1] == heads else q.unflatten(1, (heads, -1)).flatten(2, 3)


def apart(x: Tensor, heads: int) -> Tensor:
    """(B, g H, n, D) of (B, H, g n, D): the reverse of :func:`side_by_side`."""
    return x if x.shape[1] == heads else x.unflatten(2, (heads // x.shape[1], -1)).flatten(1, 2)


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


def attend(q: Tensor, k: Tensor, v: Tensor, *, softmax_scale: float, counts: Tensor | None = None) -> Tensor:
    """(B, H, n, D) softmax(q.k * softmax_scale + log counts) v.

    A token that stands for c others counts c times; without counts there is no bias and the fast kernels stay.
    """
    bias = None if counts is None else counts.log().unsqueeze(2).to(q.dtype)  # (B, H, 1, N)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=softmax_scale)


def attention_mass(
    q: Tensor, k: Tensor, *, softmax_scale: float, counts: Tensor | None = None, chunk_bytes: int | None = None
) -> Tensor:
    """(B, H, N) float32: the attention each key gets, summed over the queries.

    Args:
        q: (B, H, m, D) queries.
        k: (B, H, N, D) keys.
        softmax_scale: factor on q.k.
        counts: (B, H, N) how many tokens each key stands for.
        chunk_bytes: heads and queries are taken in chunks whose probabilities, and float32 copies of keys in other
            dtypes, fit into this many bytes; :data:`CHUNK_BYTES` or :data:`CHUNK_BYTES_CPU` by default. How many queries
            does not depend on the number of rows, so that no row's sums do.
    """
    rows, heads, tokens, width = k.shape
    chunk_bytes = chunk_bytes or default_chunk_bytes(k.device)
    queries = max(1, min(q.shape[2], chunk_bytes // (4 * tokens)))
    widest = queries if k.dtype == torch.float32 else max(queries, width)
    at_once = max(1, chunk_bytes // (4 * tokens * widest))
    bias = None if counts is None else counts.log().unsqueeze(2)
    if at_once >= rows * heads and queries == q.shape[2]:
        return attention_probabilities(q, k, softmax_scale, bias).sum(2)
    mass = k.new_zeros(rows, heads, tokens, dtype=torch.float32)
    for q_part, k_part, bias_part, total in blocks(at_once, q, k, mass if bias is None else bias, mass):
        k_wide = _wide(k_part)
        for part in q_part.split(queries, dim=2):
            total += attention_probabilities(part, k_wide, softmax_scale, None if bias is None else bias_part).sum(2)
    return mass


def blocks(at_once: int, *parts: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Views of the parts (B, H, ...), ``at_once`` of their B x H places each: several rows, or some heads of one.

    On the meta device those of the first rows alone: no others take more.
    """
    heads = parts[0].shape[1]
    if at_once >= parts[0].shape[0] * heads:
        yield parts
        return
    for rows in zip(*(part.split(max(1, at_once // heads)) for part in parts), strict=True):
        yield from zip(*(part.split(min(heads, at_once), dim=1) for part in rows), strict=True)
        if parts[0].is_meta:
            return


def most_alike(x: Tensor, among: Tensor, *, every: int = 1, chunk_bytes: int | None = None) -> Tensor:
    """(B, H, N) for each token the place in ``among`` of the one whose direction is nearest (the first of several).

    Args:
        x: (B, H, N, D).
        among: (B, H, keep) indices into the N tokens.
        every: which channels are compared: 2 for every second one.
        chunk_bytes: the most that the products of one chunk may take, or its copies of x;
            a quarter of :data:`CHUNK_BYTES` or :data:`CHUNK_BYTES_CPU` by default.

    >>> x = torch.tensor([[[[2.0, 0.0], [1.0, 9.0], [0.0, 1.0], [5.0, 1.0]]]])
    >>> most_alike(x, torch.tensor([[[2, 3]]]))
    tensor([[[1, 0, 0, 1]]])
    """
    rows, heads, tokens, width = x.shape
    keep = among.shape[2]
    chunk_bytes = chunk_bytes or default_chunk_bytes(x.device) // 4
    step = max(1, min(tokens, chunk_bytes // (4 * max(keep, width))))
    at_once = max(1, chunk_bytes // (4 * max(step * keep, step * width, keep * width)))
    if at_once >= rows * heads and step == tokens:
        return largest(_likeness(x, _directions(x, among, every), every))
    nearest = x.new_empty(rows, heads, tokens, dtype=torch.int64)
    for part, among_part, place in blocks(at_once, x, among, nearest):
        directions = _directions(part, among_part, every)
        for some, found in zip(part.split(step, dim=2), place.split(step, dim=2), strict=True):
            found.copy_(largest(_likeness(some, directions, every)))
    return nearest


def _directions(x: Tensor, among: Tensor, every: int) -> Tensor:
    """(B, H, D', keep) some channels of those tokens, of length 1."""
    return F.normalize(_wide(gather_tokens(x, among)[..., ::every]), dim=-1).transpose(-2, -1)


def _likeness(x: Tensor, directions: Tensor, every: int) -> Tensor:
    """(B, H, N, keep) cosines times the length of each token, which makes no difference to which is largest."""
    return torch.matmul(_wide(x[..., ::every]), directions)


def largest(x: Tensor) -> Tensor:
    """(...) index of the largest number along the last axis, the first of several."""
    if x.device.type == "cpu":  # numpy is many times faster
        return torch.from_numpy(x.numpy().argmax(axis=-1))
    return x.argmax(dim=-1)


def attention_probabilities(q: Tensor, k: Tensor, softmax_scale: float, bias: Tensor | None = None) -> Tensor:
    """(..., m, N) float32 softmax of the logits. For few queries only: nothing here is chunked.

    Logits are computed in float32 as the attention kernels do inside: rounded to bfloat16, a logit of 50 is off by a
    tenth, and so is every probability.
    """
    logits = torch.matmul(_wide(q) * softmax_scale, _wide(k).transpose(-2, -1)).float()
    if bias is not None:
        logits += bias
    return logits.softmax(dim=-1)


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype.itemsize >= torch.float32.itemsize else x.float()


def default_chunk_bytes(device: torch.device) -> int:
    """The most that one chunk may take on this device."""
    return CHUNK_BYTES if device.type == "cuda" else CHUNK_BYTES_CPU


def chunk_length(k: Tensor) -> int:
    """How many queries at a time keep a float32 (B, H, queries, N) tensor within the chunk size; at least one."""
    return max(1, default_chunk_bytes(k.device) // (4 * k.shape[0] * k.shape[1] * k.shape[2]))


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
