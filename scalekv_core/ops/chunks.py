"""How much is computed at once: memory is bounded by a stated number, whatever the batch."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

CHUNK_BYTES = 64 * 2**20
"""The most that one chunk of attention probabilities may take."""
CHUNK_BYTES_CPU = 8 * 2**20
"""The same on a CPU, where chunks that fit into its cache are more than twice as fast as larger ones."""


def default_chunk_bytes(device: torch.device) -> int:
    """The most that one chunk may take on this device."""
    return CHUNK_BYTES if device.type == "cuda" else CHUNK_BYTES_CPU


def chunk_length(k: Tensor) -> int:
    """How many queries at a time keep a float32 (B, H, queries, N) tensor within the chunk size; at least one."""
    return max(1, default_chunk_bytes(k.device) // (4 * k.shape[0] * k.shape[1] * k.shape[2]))


def blocks(at_once: int, *parts: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Views of the parts (B, H, ...), ``at_once`` of their B x H places each: several rows, or some heads of one.

    On the meta device those of the first rows alone: no others take more.
    """
    heads = parts[0].shape[1]
    if at_once >= parts[0].shape[0] * heads:
        yield parts
        return
    if parts[0].is_meta:  # as many rows as there are: a view of each would take seconds
        parts = tuple(part[: max(1, at_once // heads)] for part in parts)
    for rows in zip(*(part.split(max(1, at_once // heads)) for part in parts), strict=True):
        yield from zip(*(part.split(min(heads, at_once), dim=1) for part in rows), strict=True)
