"""Keys and values in the host's memory: the device holds the history of the current layer and the next one only."""

from __future__ import annotations

import torch
from attrs import frozen
from torch import Tensor

from scalekv_core import ops
from scalekv_core.contracts.encoded import Encoded, Kind
from scalekv_core.contracts.strategies import CacheCodec


@frozen
class Host(CacheCodec):
    """Exact copies in pinned memory of the host; on a CPU plain copies.

    Kept tokens are gathered on the device, from what attention has just read, and then copied, so that no index has to come to
    the host. Copies are queued behind the work of the device, and nothing waits; on CUDA histories come back ahead of
    attention, on a stream of their own (:mod:`scalekv_core.cache.prefetch`). The bytes that reports call resident are then the
    host's; positions, counts and statistics stay on the device.
    """

    leaves_device = True

    @property
    def kinds_alike(self) -> bool:
        return True

    def encode(self, x: Tensor, kind: Kind, *, like: Encoded | None = None) -> Encoded:
        pinned = x.device.type == "cuda"
        stored = torch.empty(x.shape, dtype=x.dtype, device="meta" if x.is_meta else "cpu", pin_memory=pinned)
        return Encoded({"x": stored.copy_(x, non_blocking=True)})

    def decode(self, stored: Encoded, kind: Kind, out: Tensor) -> None:
        out.copy_(stored.tokens["x"], non_blocking=True)

    def nbytes(
        self, kind: Kind, *, rows: int, heads: int, tokens: int, maps: int, head_dim: int, dtype: torch.dtype
    ) -> int:
        return rows * heads * tokens * head_dim * dtype.itemsize

    def keep(self, stored: Encoded | None, current: Tensor, whole: Tensor, index: Tensor | None, kind: Kind) -> Encoded:
        return self.encode(whole if index is None else ops.gather_tokens(whole, index), kind)
