"""Teacher forcing: all scales are passed at once, and a mask hides the later ones from the earlier."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from scalekv_core.shapes.schedule import ScaleSchedule


class MaskedAttention:
    """The cache of teacher forcing: all scales come at once, and an additive mask (1, 1, L, L) hides the later ones."""

    def __init__(self, mask: Tensor) -> None:
        self.mask = mask

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, *, softmax_scale: float, store: bool = True
    ) -> Tensor:
        """(B, g H, L, D) the masked attention; the same for every layer."""
        if (group := q.shape[1] // k.shape[1]) > 1:
            k, v = (x.repeat_interleave(group, dim=1) for x in (k, v))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask, scale=softmax_scale)

    def close(self) -> None:
        """Has nothing to forget."""


def future_mask(levels: Tensor) -> Tensor:
    """Additive mask (1, 1, L, L) of tokens with these levels (L,): 0 where the query's is no earlier, else -inf."""
    mask = torch.zeros(1, 1, len(levels), len(levels))
    return mask.masked_fill(levels[:, None] < levels[None, :], float("-inf"))


def reading_mask(schedule: ScaleSchedule) -> Tensor:
    """Additive mask (1, 1, L, L) of the tokens of a schedule: 0 where the query's map reads the key's or is it, else -inf."""
    reads = torch.eye(len(schedule), dtype=torch.bool)
    for scale in range(len(schedule)):
        reads[scale, list(schedule.read_by(scale))] = True
    levels = torch.arange(len(schedule)).repeat_interleave(torch.tensor(schedule.tokens))
    seen = reads[levels][:, levels]
    return torch.zeros(1, 1, *seen.shape).masked_fill(~seen, float("-inf"))


def dropped(drop: Tensor | float, batch: int, generator: torch.Generator | None) -> Tensor:
    """(B,) which prompts say nothing, so that guidance can be learnt: a mask as it is, or each with this probability."""
    return drop if isinstance(drop, Tensor) else torch.rand(batch, generator=generator) < drop
