"""Which tokens are alike: the nearest direction."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from scalekv_core.ops.attention import wide
from scalekv_core.ops.chunks import blocks, default_chunk_bytes
from scalekv_core.ops.tokens import gather_tokens, largest


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
    return F.normalize(wide(gather_tokens(x, among)[..., ::every]), dim=-1).transpose(-2, -1)


def _likeness(x: Tensor, directions: Tensor, every: int) -> Tensor:
    """(B, H, N, keep) cosines times the length of each token, which makes no difference to which is largest."""
    return torch.matmul(wide(x[..., ::every]), directions)
