"""Keys and values as one block: (2 B, H, N, D), the rows of the keys and then those of the values.

So both are copied, gathered and encoded at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from attrs import define
from torch import Tensor

from scalekv_core.contracts.encoded import Encoded, Kind
from scalekv_core.contracts.strategies import CacheCodec

Stored = tuple[Encoded, ...]
"""Codes of keys and of values; one for both under a codec whose ``kinds_alike`` is true."""


@define(eq=False)
class Block:
    """A block of keys and values, and its halves.

    Attributes:
        both: (2 B, H, N, D).
        keys, values: (B, H, N, D) each, of the same memory.
    """

    both: Tensor
    keys: Tensor
    values: Tensor

    @classmethod
    def of(cls, both: Tensor) -> Block:
        return cls(both, *both.chunk(2))


def by_kind(both: Tensor, codec: CacheCodec) -> Sequence[tuple[Kind, Tensor]]:
    """(kind, (rows, H, N, D)) of the tensors that a codec stores: keys and values, or both as twice the rows."""
    if codec.kinds_alike:
        return [("key", both)]
    keys, values = both.chunk(2)
    return [("key", keys), ("value", values)]


def decode_into(both: Tensor, stored: Stored, codec: CacheCodec) -> None:
    """Decodes the codes into a block."""
    for encoded, (kind, out) in zip(stored, by_kind(both, codec), strict=True):
        codec.decode(encoded, kind, out)


def encode(both: Tensor, codec: CacheCodec) -> Stored:
    """The codes of all tokens, in memory of their own."""
    return tuple([codec.encode(x, kind).owned(both) for kind, x in by_kind(both, codec)])


def keep(old: Stored | None, block: Block, history: int, kept: Tensor | None, codec: CacheCodec) -> Stored:
    """The codes of the kept tokens (all if None), in memory of their own.

    Args:
        old: codes of the first ``history`` tokens; None if there are none.
        block: what attention read.
        history: tokens before the current map.
        kept: (B, H, keep) into the N tokens.
        codec: whose codes.
    """
    before = (None,) * 2 if old is None else old
    kinds = by_kind(block.both, codec)
    return tuple(
        [
            codec.keep(encoded, x[:, :, history:], x, kept, kind).owned(block.both)
            for encoded, (kind, x) in zip(before, kinds, strict=False)
        ]
    )


def dense(*parts: Tensor) -> Stored:
    """The codes of a dense codec: keys and values themselves, as a block or separately."""
    return tuple([Encoded({"x": part}) for part in parts])


def halves(stored: Stored) -> tuple[Tensor, Tensor]:
    """Keys and values (B, H, N, D) that are stored dense."""
    parts = [encoded.tokens["x"] for encoded in stored]
    keys, values = parts if len(parts) == 2 else parts[0].chunk(2)
    return keys, values


def grown(stored: Stored | None, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values of a history that is stored dense (None if there is none) and the current map, in new memory."""
    if stored is None:
        return k.clone(memory_format=torch.contiguous_format), v.clone(memory_format=torch.contiguous_format)
    keys, values = halves(stored)
    return torch.cat([keys, k], dim=2), torch.cat([values, v], dim=2)


def append(block: Block, stored: Stored | None, k: Tensor, v: Tensor) -> None:
    """Writes a history that is stored dense (None if there is none) and the current map behind it into the block."""
    if stored is None:
        append_map(block, 0, k, v)
        return
    keys, values = halves(stored)
    torch.cat([keys, k], dim=2, out=block.keys)
    torch.cat([values, v], dim=2, out=block.values)


def append_map(block: Block, history: int, k: Tensor, v: Tensor) -> None:
    """Writes the current map behind a history that is in the block already."""
    block.keys[:, :, history:].copy_(k)
    block.values[:, :, history:].copy_(v)
