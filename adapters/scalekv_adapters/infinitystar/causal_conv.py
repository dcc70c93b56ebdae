"""Convolutions over time that never look ahead, so that a clip can pass in chunks of frames.

A chunk needs nothing of the chunks before it but the last two input frames of every convolution. A `Carry` holds those for one
clip, so the memory of a network does not grow with the clip.
"""

from __future__ import annotations

import torch
from attrs import define, field
from torch import Tensor, nn

KERNEL = 3
BEFORE = KERNEL - 1
"""Frames before the current one that a convolution reads."""


@define(eq=False)
class Carry:
    """What one pass over a clip carries from chunk to chunk.

    Attributes:
        first: whether this is the first chunk of the clip.
        more: whether frames follow that need what is carried.
        latent: (B, C, t, h, w) of the chunk, for a decoder whose norms read it.
        tails: {convolution: (B, C, 2, H, W) the last frames of its input}.
    """

    first: bool = True
    more: bool = False
    latent: Tensor | None = None
    tails: dict[nn.Module, Tensor] = field(factory=dict)

    def extended(self, conv: nn.Module, x: Tensor) -> Tensor:
        """(B, C, 2 + t, H, W) the input with the two frames before it; before the first frame stands that frame itself."""
        before = self.tails.pop(conv, None)
        if before is None:
            before = x[:, :, :1].expand(-1, -1, BEFORE, -1, -1)
        x = torch.cat([before, x], dim=2)
        if self.more:
            self.tails[conv] = x[:, :, -BEFORE:].clone()  # a view would hold the whole chunk
        return x


class CausalConv(nn.Module):
    """A 3 x 3 x 3 convolution that keeps frames and sides: it reads the frame and the two before it, with zeros around it."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(c_in, c_out, KERNEL, padding=(0, 1, 1))

    def forward(self, x: Tensor, carry: Carry) -> Tensor:
        out: Tensor = self.conv(carry.extended(self, x))
        return out


class PointConv(nn.Module):
    """A linear map of the channels at every position, under the published name ``conv``."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(c_in, c_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return out
