"""Keys and values side by side: one (2, B, H, N, D) block, so that both are copied, gathered, folded and encoded at once."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from scalekv_core.contracts.encoded import Encoded, Kind
from scalekv_core.contracts.strategies import CacheCodec

Stored = tuple[Encoded, ...]
"""Codes of keys and of values; one for both under a codec whose ``kinds_alike`` is true."""


def kinds_of(block: Tensor, codec: CacheCodec) -> Iterator[tuple[Kind, Tensor]]:
    """(kind, (rows, H, N, D)) of the tensors that a codec stores: keys and values, or both as twice the rows."""
    if codec.kinds_alike:
        yield "key", block.flatten(0, 1)
    else:
        yield "key", block[0]
        yield "value", block[1]


def decode_into(block: Tensor, stored: Stored, codec: CacheCodec) -> None:
    """Writes the (2, B, H, N, D) that the codes stand for."""
    for encoded, (kind, out) in zip(stored, kinds_of(block, codec), strict=True):
        codec.decode(encoded, kind, out)


def encode(block: Tensor, codec: CacheCodec) -> Stored:
    """The codes of a whole block, in memory of their own."""
    return tuple(codec.encode(x, kind).owned(block) for kind, x in kinds_of(block, codec))


def keep(old: Stored | None, block: Tensor, history: int, kept: Tensor | None, codec: CacheCodec) -> Stored:
    """The codes of the kept tokens (all if None), in memory of their own.

    Args:
        old: codes of the first ``history`` tokens; None if there are none.
        block: (2, B, H, N, D) what attention read.
        history: tokens before the current map.
        kept: (B, H, keep) into the N tokens.
        codec: whose codes.
    """
    before = (None,) * 2 if old is None else old
    return tuple(
        codec.keep(encoded, x[:, :, history:], x, kept, kind).owned(block)
        for encoded, (kind, x) in zip(before, kinds_of(block, codec), strict=False)
    )


def dense(x: Tensor) -> Stored:
    """The codes of a dense codec: a block, or the same as twice the rows (2 B, H, N, D), as it is."""
    return (Encoded({"x": x if x.dim() == 4 else x.flatten(0, 1)}),)


def append(block: Tensor, stored: Stored | None, k: Tensor, v: Tensor) -> None:
    """Writes a history that is stored dense (None if there is none) and the current map k, v behind it into the block."""
    if stored is None:
        block[0], block[1] = k, v
        return
    held = stored[0].tokens["x"]
    rows = k.shape[0]
    torch.cat([held[:rows], k], dim=2, out=block[0])
    torch.cat([held[rows:], v], dim=2, out=block[1])
