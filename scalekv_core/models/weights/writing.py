"""Weights to a safetensors file, one tensor at a time: a whole model is never in memory.

The safetensors library writes all tensors at once. The format allows more: its header says where every tensor begins, so
the file can be filled in any order.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from attrs import frozen
from torch import Tensor

from scalekv_core.errors import CheckpointError
from scalekv_core.models.weights.finite import check_cast
from scalekv_core.models.weights.source import Weights

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""{dtype: its name in a safetensors header}."""


@frozen
class Layout:
    """Where every tensor of a file begins.

    Attributes:
        header: the bytes that the file begins with.
        places: {name: (dtype, offset of its first byte in the file)}.
        nbytes: of the whole file.
    """

    header: bytes
    places: Mapping[str, tuple[torch.dtype, int]]
    nbytes: int


def layout(weights: Weights, dtype: torch.dtype | None, metadata: Mapping[str, str]) -> Layout:
    """Where the tensors will begin: wide dtypes first, so that all are aligned and can be mapped, then by name."""
    stored = {
        name: weights.format.dtype(name, dtype) if dtype and shape.is_floating_point() else shape.dtype
        for name, shape in weights.shapes.items()
    }
    if strange := [name for name in stored if stored[name] not in DTYPES]:
        raise CheckpointError(
            f"checkpoint {weights.path} holds {strange[0]} as {stored[strange[0]]}, which safetensors cannot store"
        )
    entries: dict[str, object] = {"__metadata__": {"format": "pt", **metadata}}
    offsets, end = {}, 0
    for name in sorted(stored, key=lambda name: (-stored[name].itemsize, name)):
        shape = weights.shapes[name].shape
        offsets[name], end = end, end + shape.numel() * stored[name].itemsize
        entries[name] = {"dtype": DTYPES[stored[name]], "shape": list(shape), "data_offsets": [offsets[name], end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    header = len(text).to_bytes(8, "little") + text
    return Layout(header, {name: (stored[name], len(header) + at) for name, at in offsets.items()}, len(header) + end)


def write_safetensors(
    weights: Weights,
    path: Path,
    *,
    dtype: torch.dtype | None = None,
    metadata: Mapping[str, str] | None = None,
    advance: Callable[[int], None] = lambda nbytes: None,
) -> None:
    """Writes the weights to a new safetensors file, holding no more than one tensor (or a shard that cannot be mapped).

    Args:
        weights: what to write.
        path: the file; a half-written one is left there if this is interrupted, so give a scratch name.
        dtype: of the numbers in the file, but for those that the format keeps wider; None leaves them as they are.
            Integers always stay what they are.
        metadata: texts for the header.
        advance: is called with the bytes that each tensor has added.

    Raises:
        CheckpointError: a tensor has a dtype that safetensors cannot store, or numbers too large for the new dtype.
    """
    plan = layout(weights, dtype, metadata or {})
    with path.open("wb") as file:
        file.write(plan.header)
        file.truncate(plan.nbytes)
        for shard in weights.shards():
            for name, value in shard.items():
                stored, offset = plan.places[name]
                cast = value.to(stored)
                check_cast(weights, name, cast, value)
                advance(_write(file, cast, offset))
        file.flush()
        os.fsync(file.fileno())


def _write(file: BinaryIO, value: Tensor, offset: int) -> int:
    """Writes the bytes of a tensor; returns how many."""
    if value.numel():
        file.seek(offset)
        file.write(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return value.nbytes
