"""The cache of the unmodified models: concatenate everything, forget nothing.

It is the yardstick that every policy is measured against, so it does what the published code does, waste included: the
last map is stored although nobody will read it, and every scale copies all the earlier ones.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from scalekv_core.shapes.schedule import ScaleSchedule


class ConcatCache:
    """Keeps the keys and values of all scales of all layers, for one image (or batch) of this schedule.

    It is an :class:`~scalekv_core.contracts.adapter.AttentionCache`.

    >>> cache = ConcatCache(ScaleSchedule.square(1, 2))
    >>> maps = torch.ones(1, 1, 1, 8), torch.zeros(1, 1, 4, 8)
    >>> [tuple(cache.attend(0, x, x, x, softmax_scale=1.0).shape) for x in maps]
    [(1, 1, 1, 8), (1, 1, 4, 8)]
    >>> cache.keys[0].shape[2]
    5
    """

    def __init__(self, schedule: ScaleSchedule) -> None:
        self.schedule = schedule
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, *, softmax_scale: float) -> Tensor:
        """(B, H, n, D) the attention over everything that this layer has ever seen."""
        if layer in self.keys:
            k = torch.cat((self.keys[layer], k), dim=2)
            v = torch.cat((self.values[layer], v), dim=2)
        self.keys[layer], self.values[layer] = k, v
        return F.scaled_dot_product_attention(q, k, v, scale=softmax_scale)

    def close(self) -> None:
        """Forgets everything."""
        self.keys.clear()
        self.values.clear()
