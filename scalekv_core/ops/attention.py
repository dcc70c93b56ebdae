"""Attention, and how much of it each key gets."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from scalekv_core.ops.chunks import blocks, default_chunk_bytes


def side_by_side(q: Tensor, heads: int) -> Tensor:
    """(B, H, g n, D) queries (B, g H, n, D), those of the g query heads that share a key/value head one behind the other.

    No query sees another, so attention needs no repeated keys.
    """
    return q if q.shape[1] == heads else q.unflatten(1, (heads, -1)).flatten(2, 3)


def apart(x: Tensor, heads: int) -> Tensor:
    """(B, g H, n, D) of (B, H, g n, D): the reverse of :func:`side_by_side`."""
    return x if x.shape[1] == heads else x.unflatten(2, (heads // x.shape[1], -1)).flatten(1, 2)


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
        k_wide = wide(k_part)
        for part in q_part.split(queries, dim=2):
            total += attention_probabilities(part, k_wide, softmax_scale, None if bias is None else bias_part).sum(2)
    return mass


def attention_probabilities(q: Tensor, k: Tensor, softmax_scale: float, bias: Tensor | None = None) -> Tensor:
    """(..., m, N) float32 softmax of the logits. For few queries only: nothing here is chunked.

    Logits are computed in float32 as the attention kernels do inside: rounded to bfloat16, a logit of 50 is off by a
    tenth, and so is every probability.
    """
    logits = torch.matmul(wide(q) * softmax_scale, wide(k).transpose(-2, -1)).float()
    if bias is not None:
        logits += bias
    return logits.softmax(dim=-1)


def wide(x: Tensor) -> Tensor:
    """x in float32, or as it is if that is wider."""
    return x if x.dtype.itemsize >= torch.float32.itemsize else x.float()
