"""The unmodified cache: concatenates all keys and values and evicts nothing.

Every policy is measured against it, so it does what the published code does, waste included: it stores the last map, which
no later scale attends to, and copies the whole history at every scale.
"""

from __future__ import annotations

from collections import Counter

import torch
import torch.nn.functional as F
from torch import Tensor

from scalekv_core.cache.clock import Clock, NoClock
from scalekv_core.shapes.schedule import ScaleSchedule


class ConcatCache:
    """Keeps the keys and values of all scales and layers of one image (or batch).

    It is an :class:`~scalekv_core.contracts.adapter.AttentionCache`.

    Args:
        schedule: of the image. Not used: any schedule works, but a model calls its ``new_cache`` with one.
        key_dtype: dtype in which keys are stored, by default that of the model's keys. Attention reads them in the
            dtype of the queries.
        clock: measures the stages "read" and "attention".

    Attributes:
        keys, values: {layer: (B, H, tokens so far, D)}.

    >>> cache = ConcatCache()
    >>> maps = torch.ones(1, 1, 1, 8), torch.zeros(1, 1, 4, 8)
    >>> [tuple(cache.attend(0, x, x, x, softmax_scale=1.0).shape) for x in maps]
    [(1, 1, 1, 8), (1, 1, 4, 8)]
    >>> cache.keys[0].shape[2], cache.resident_bytes()
    (5, 320)
    """

    scratch_bytes = 0

    def __init__(
        self,
        schedule: ScaleSchedule | None = None,
        *,
        key_dtype: torch.dtype | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}
        self._key_dtype = key_dtype
        self._clock = clock or NoClock()
        self._scales: Counter[int] = Counter()

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, *, softmax_scale: float) -> Tensor:
        """(B, H, n, D) the attention over everything that this layer has received so far."""
        scale = self._scales[layer]
        self._scales[layer] += 1
        with self._clock.stage(scale, "read"):
            k = k.to(self._key_dtype or k.dtype)
            if layer in self.keys:
                k = torch.cat((self.keys[layer], k), dim=2)
                v = torch.cat((self.values[layer], v), dim=2)
            self.keys[layer], self.values[layer] = k, v
        with self._clock.stage(scale, "attention"):
            return F.scaled_dot_product_attention(q, k.to(q.dtype), v, scale=softmax_scale)

    def resident_bytes(self) -> int:
        """Bytes of all stored keys and values."""
        return sum(x.nbytes for held in (self.keys, self.values) for x in held.values())

    def close(self) -> None:
        """Frees everything."""
        self.keys.clear()
        self.values.clear()
        self._scales.clear()
