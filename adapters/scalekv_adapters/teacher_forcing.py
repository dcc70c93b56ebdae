"""Teacher forcing: all scales are passed at once, and a mask hides the later ones from the earlier."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


class MaskedAttention:
    """The cache of teacher forcing: all scales come at once, and an additive mask (1, 1, L, L) hides the later ones."""

    def __init__(self, mask: Tensor) -> None:
        self.mask = mask

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, *, softmax_scale: float, store: bool = True
    ) -> Tensor:
        """(B, H, L, D) the masked attention; the same for every layer."""
        return F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask, scale=softmax_scale)

    def close(self) -> None:
        """Has nothing to forget."""


def future_mask(levels: Tensor) -> Tensor:
    """Additive mask (1, 1, L, L) of tokens with these levels (L,): 0 where the query's is no earlier, else -inf."""
    mask = torch.zeros(1, 1, len(levels), len(levels))
    return mask.masked_fill(levels[:, None] < levels[None, :], float("-inf"))


def dropped(drop: Tensor | float, batch: int, generator: torch.Generator | None) -> Tensor:
    """(B,) which prompts say nothing, so that guidance can be learnt: a mask as it is, or each with this probability."""
    return drop if isinstance(drop, Tensor) else torch.rand(batch, generator=generator) < drop
