"""What the passes of a pyramid should say, where some bits were said wrongly on the way: the next ones put them right.

Source: bitwise self-correction (Infinity, arXiv 2412.04431, section 3.4; InfinityStar, arXiv 2511.04675).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from attrs import frozen
from torch import Tensor

from scalekv_adapters.infinitystar.pyramids import Pass
from scalekv_adapters.infinitystar.tokenizer_bits import add_bits, quantize

__all__ = ["Labels", "label"]


@frozen(kw_only=True, eq=False)
class Labels:
    """What the passes of one pyramid should say, and what is known at each.

    Attributes:
        bits: (B, d, t, h, w) bool of every pass: what is to be named, given all flips before.
        sums: (B, C, t, H, W) before the first pass, and after each one, flips included.
    """

    bits: list[Tensor]
    sums: list[Tensor]


@torch.no_grad()
def label(features: Tensor, passes: Sequence[Pass], rates: Tensor, source: torch.Generator) -> Labels:
    """The labels of features (B, C, t, H, W) at these passes of one pyramid, bits flipped at rates (B, 1, 1, 1, 1) each."""
    bits: list[Tensor] = []
    sums = [torch.zeros_like(features)]
    for each in passes:
        ((right,), _) = quantize(features - sums[-1], [each.grid], [each.bits])
        bits.append(right)
        flipped = right ^ (torch.rand(right.shape, generator=source) < rates)
        sums.append(add_bits(sums[-1], flipped))
    return Labels(bits=bits, sums=sums)
