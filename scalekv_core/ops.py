"""The tensor functions of the hot path: no loop over rows or tokens, no device sync, memory bounded by a stated number."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK_BYTES = 64 * 2**20
"""The most that one chunk of attention probabilities may take."""
CHUNK_BYTES_CPU = 8 * 2**20
"""The same on a CPU, where chunks that stay in its cache are more than twice as fast as larger ones."""


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


def other_tokens(kept: Tensor, tokens: int) -> Tensor:
    """(B, H, tokens - keep) the indices that are not among ``kept`` (B, H, keep), ascending.

    >>> other_tokens(torch.tensor([[[1, 3]]]), 5)
    tensor([[[0, 2, 4]]])
    """
    rows, heads, keep = kept.shape
    stays = torch.zeros(rows, heads, tokens, dtype=torch.bool, device=kept.device).scatter_(2, kept, True)
    place = (~stays).cumsum(dim=2).sub_(1).masked_fill_(stays, tokens - keep)  # a last place, which is cut off again
    others = kept.new_empty(rows, heads, tokens - keep + 1).scatter_(2, place, all_tokens(kept, 0, tokens))
    return others[:, :, : tokens - keep]


def gather_tokens(x: Tensor, index: Tensor) -> Tensor:
    """(B, H, keep, ...) the tokens of x at ``index``, in new memory.

    Args:
        x: (B, H, N, ...).
        index: (B, H, keep) int64.

    >>> gather_tokens(torch.tensor([[[[1.0], [2.0], [3.0]]]]), torch.tensor([[[0, 2]]])).flatten()
    tensor([1., 3.])
    """
    rows, heads, tokens = x.shape[:3]
    if x.dim() == 3 or not x.is_contiguous():
        wide = index.reshape(*index.shape, *(1,) * (x.dim() - 3)).expand(*index.shape, *x.shape[3:])
        return x.gather(2, wide)
    # Whole rows are copied at once, several times faster than an element-wise gather.
    first = torch.arange(rows * heads, device=x.device).mul_(tokens).view(rows, heads, 1)
    flat = x.reshape(rows * heads * tokens, *x.shape[3:]).index_select(0, (index + first).flatten())
    return flat.view(rows, heads, index.shape[2], *x.shape[3:])


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
    mass = k.new_zeros(rows, heads, tokens, dtype=torch.float32)
    bias = mass if counts is None else counts.log()  # zero where nothing is counted
    for q_part, k_part, bias_part, total in blocks(at_once, q, k, bias.unsqueeze(2), mass):
        k_wide = _wide(k_part)
        for part in q_part.split(queries, dim=2):
            total += attention_probabilities(part, k_wide, softmax_scale, None if counts is None else bias_part).sum(2)
    return mass


def blocks(at_once: int, *parts: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Views of the parts (B, H, ...), ``at_once`` of their B x H places each: several rows, or some heads of one.

    On the meta device those of the first rows alone: no others take more.
    """
    heads = parts[0].shape[1]
    for rows in zip(*(part.split(max(1, at_once // heads)) for part in parts), strict=True):
        yield from zip(*(part.split(min(heads, at_once), dim=1) for part in rows), strict=True)
        if parts[0].is_meta:
            return


def most_alike(x: Tensor, of: Tensor, among: Tensor, *, every: int = 1, chunk_bytes: int | None = None) -> Tensor:
    """(B, H, M) for each token ``of`` the place in ``among`` of the one whose direction is nearest (the first of several).

    Args:
        x: (B, H, N, D).
        of: (B, H, M) indices into the N tokens.
        among: (B, H, keep) indices.
        every: which channels are compared: 2 for every second one.
        chunk_bytes: the most that the products of one chunk may take, or its copies of x;
            a quarter of :data:`CHUNK_BYTES` or :data:`CHUNK_BYTES_CPU` by default.

    >>> x = torch.tensor([[[[2.0, 0.0], [1.0, 9.0], [0.0, 1.0], [5.0, 1.0]]]])
    >>> most_alike(x, torch.tensor([[[0, 1]]]), torch.tensor([[[2, 3]]]))
    tensor([[[1, 0]]])
    """
    tokens, width, keep = of.shape[2], x.shape[3], among.shape[2]
    chunk_bytes = chunk_bytes or default_chunk_bytes(x.device) // 4
    step = max(1, min(tokens, chunk_bytes // (4 * max(keep, width))))
    at_once = max(1, chunk_bytes // (4 * max(step * keep, tokens * width)))
    nearest = torch.empty_like(of)
    for part, of_part, among_part, place in blocks(at_once, x, of, among, nearest):
        directions = F.normalize(_wide(gather_tokens(part, among_part)[..., ::every]), dim=-1).transpose(-2, -1)
        others = gather_tokens(part, of_part)[..., ::every]
        for some, found in zip(others.split(step, dim=2), place.split(step, dim=2), strict=True):
            found.copy_(largest(torch.matmul(_wide(some), directions)))
    return nearest


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


def fold_counts(counts: Tensor, target: Tensor, keep: int) -> Tensor:
    """(B, H, keep) float32: how many tokens each of those that stay stands for.

    Args:
        counts: (B, H, N) float32, whole numbers: their sums are the same in any order.
        target: (B, H, N) which of the ``keep`` tokens each goes to; -1 drops it.

    >>> fold_counts(torch.tensor([[[1.0, 2.0, 1.0]]]), torch.tensor([[[0, 0, -1]]]), 1)
    tensor([[[3.]]])
    """
    stays = torch.where(target < 0, 0, counts)
    return counts.new_zeros(*counts.shape[:2], keep).scatter_add_(2, target.clamp_min(0), stays)


def fold(x: Tensor, weights: Tensor, target: Tensor, keep: int) -> Tensor:
    """(B, H, keep, D) weighted means of the tokens folded together.

    Args:
        x: (B, H, N, D) keys or values.
        weights: (B, H, N) float32, greater than zero.
        target: (B, H, N) which of the ``keep`` tokens each goes to; -1 drops it.

    >>> x = torch.tensor([[[[1.0], [3.0], [9.0]]]])
    >>> fold(x, torch.tensor([[[3.0, 1.0, 1.0]]]), torch.tensor([[[0, 0, -1]]]), 1)
    tensor([[[[1.5000]]]])
    """
    rows, heads, tokens, width = x.shape
    at_once = max(1, default_chunk_bytes(x.device) // (4 * tokens * width))
    means = x.new_empty(rows, heads, keep, width)
    for parts in blocks(at_once, x, weights, target, means):
        _fold_block(*parts)
    return means


def _fold_block(x: Tensor, weights: Tensor, target: Tensor, means: Tensor) -> None:
    """Writes what ``fold`` returns for some rows and heads; sums are in float32, as weights are.

    Tokens are sorted by where they go and summed bag by bag, in the same order every time; adding them where they go
    would depend, on a GPU, on which comes first.
    """
    rows, heads, keep, width = means.shape
    bins = keep + 1  # dropped tokens go to one more, which is left out
    first = torch.arange(rows * heads, device=x.device).mul_(bins).view(rows, heads, 1)
    bin_of = (torch.where(target < 0, keep, target) + first).flatten()
    order = bin_of.argsort(stable=True)
    sizes = torch.zeros(rows * heads * bins, dtype=torch.int64, device=x.device)
    sizes.index_add_(0, bin_of, torch.ones_like(bin_of))
    starts = sizes.cumsum(0) - sizes
    totals = F.embedding_bag(order, weights.reshape(-1, 1), starts, mode="sum").flatten()
    # A token that stays alone has a share of 1, and is not changed by a bit.
    shares = (weights.flatten() / totals[bin_of])[order]
    sums = F.embedding_bag(order, x.float().reshape(-1, width), starts, mode="sum", per_sample_weights=shares)
    means.copy_(sums.view(rows, heads, bins, width)[:, :, :keep])
