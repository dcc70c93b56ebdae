"""Scratch buffers for the history that attention reads, and prefetching of histories from the host's memory.

While one head group attends from a pair of buffers, the history of the next is copied into another pair, on a stream of its
own. Two waits keep them apart. A copy waits for all that was queued on the device before it, and the last to read its buffers
is among that; attention waits for the copy.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from attrs import frozen
from torch import Tensor

from scalekv_core.cache import key_values
from scalekv_core.cache.key_values import Block, Stored
from scalekv_core.contracts.strategies import CacheCodec


def reads_ahead(codec: CacheCodec, device: torch.device) -> bool:
    """Whether histories under this codec are copied to such a device ahead of attention."""
    return codec.leaves_device and device.type == "cuda"


class CopyStream(Protocol):
    """Runs copies in order, asynchronously to the device's other work."""

    def copy(self, work: Callable[[], None]) -> None:
        """Copies after all work that is queued on the device now, in parallel with what is queued later."""

    def wait(self) -> None:
        """Makes work that is queued on the device from now on wait for all copies."""


CopyStreamOf = Callable[[torch.device], CopyStream | None]


class Stream(Protocol):
    """The part of ``torch.cuda.Stream`` that is used here."""

    def wait_stream(self, stream: Any) -> None: ...


@frozen(eq=False)
class CudaCopyStream:
    """A copy stream on a CUDA stream of its own.

    Attributes:
        stream: of the copies.
        current: tells the stream that the device's work is queued on.
        on: a block whose work is queued on the given stream.
    """

    stream: Stream
    current: Callable[[], Stream]
    on: Callable[[Any], AbstractContextManager[Any]]

    def copy(self, work: Callable[[], None]) -> None:
        self.stream.wait_stream(self.current())
        with self.on(self.stream):
            work()

    def wait(self) -> None:
        self.current().wait_stream(self.stream)


def copy_stream_for(codec: CacheCodec, device: torch.device) -> CopyStream | None:
    """The copy stream for histories, beside the device's current stream; None where there is no prefetching."""
    if not reads_ahead(codec, device):
        return None
    return CudaCopyStream(torch.cuda.Stream(device), lambda: torch.cuda.current_stream(device), torch.cuda.stream)


class Buffers:
    """One buffer for keys and values per device and dtype, shared by all layers and allocated once."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._buffers: dict[tuple[torch.device, torch.dtype], Tensor] = {}
        self._blocks: dict[tuple[torch.device, torch.dtype, int, int], Block] = {}

    def block(self, like: Tensor, heads: int, tokens: int) -> Block:
        """Contiguous keys and values of so many tokens; B, D, dtype and device are those of ``like``.

        The same views for all layers of a scale.
        """
        key = (like.device, like.dtype, heads, tokens)
        block = self._blocks.get(key)
        if block is None:
            rows, _, _, width = like.shape
            flat = self._buffer(like)[: 2 * rows * heads * tokens * width]
            block = self._blocks[key] = Block.of(flat.view(2 * rows, heads, tokens, width))
        return block

    def _buffer(self, like: Tensor) -> Tensor:
        key = (like.device, like.dtype)
        if key not in self._buffers:
            self._buffers[key] = like.new_empty(2 * like.shape[0] * self._slots * like.shape[3])
        return self._buffers[key]

    @property
    def nbytes(self) -> int:
        return sum(buffer.nbytes for buffer in self._buffers.values())

    def clear(self) -> None:
        self._buffers.clear()
        self._blocks.clear()


@frozen(eq=False)
class _Coming:
    """A history that is being fetched, its number of tokens with the map that follows, and its stream."""

    stored: Stored
    tokens: int
    stream: CopyStream


class Scratch:
    """The buffers in which attention reads a history followed by the current map.

    Args:
        slots: heads x tokens that there is space for.
        codec: decodes histories.
        copy_stream_of: {device: stream} by which histories come ahead; None where they are read when they are wanted.
    """

    def __init__(self, slots: int, codec: CacheCodec, copy_stream_of: CopyStreamOf) -> None:
        self._codec = codec
        self._copy_stream_of = copy_stream_of
        self._copy_streams: dict[torch.device, CopyStream | None] = {}
        self._read, self._filled = Buffers(slots), Buffers(slots)  # they take turns
        self._coming: _Coming | None = None

    def whole(self, stored: Stored | None, k: Tensor, v: Tensor) -> Block:
        """Keys and values of history and current map, valid until the next call.

        Args:
            stored: the history; None if there is none.
            k, v: (B, H, n, D) of the current map.
        """
        history = 0 if stored is None else stored[0].length
        came = stored is not None and self._came(stored, history + k.shape[2])
        block = self._read.block(k, k.shape[1], history + k.shape[2])
        if self._codec.dense and not came:
            key_values.append(block, stored, k, v)
            return block
        if stored is not None and not came:
            key_values.decode_into(block.both[:, :, :history], stored, self._codec)
        key_values.append_map(block, history, k, v)
        return block

    def fetch(self, stored: Stored, like: Tensor, heads: int, current: int) -> None:
        """Begins to copy a history to where the next call of `whole` reads it, if its device has a copy stream.

        Args:
            stored: the history.
            like: (B, H, N, D) with its rows, width, dtype and device.
            heads, current: its heads, and the tokens of the map that will follow it.
        """
        if like.device not in self._copy_streams:
            self._copy_streams[like.device] = self._copy_stream_of(like.device)
        stream = self._copy_streams[like.device]
        if stream is None:
            return
        history = stored[0].length
        block = self._filled.block(like, heads, history + current)  # allocated where attention will read
        stream.copy(lambda: key_values.decode_into(block.both[:, :, :history], stored, self._codec))
        self._coming = _Coming(stored, history + current, stream)

    def _came(self, stored: Stored, tokens: int) -> bool:
        """Whether this history was fetched; if so, attention waits for the copy and reads it."""
        coming, self._coming = self._coming, None
        if coming is None or coming.stored[0] is not stored[0] or coming.tokens != tokens:
            return False
        coming.stream.wait()
        self._read, self._filled = self._filled, self._read
        return True

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers."""
        return self._read.nbytes + self._filled.nbytes

    def clear(self) -> None:
        """Frees the memory, once all copies into it are finished."""
        for stream in self._copy_streams.values():
            if stream is not None:
                stream.wait()
        self._coming = None
        self._read.clear()
        self._filled.clear()
