"""Encoder and decoder of InfinityStar's video tokenizer, one chunk of frames at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalekv_adapters.infinitystar.causal_conv import Carry, CausalConv
from scalekv_adapters.infinitystar.tokenizer_parts import (
    Downsample,
    LatentNorm,
    ResidualBlock,
    RMSNorm,
    Upsample,
    latent_frames,
)

Norm = Callable[[int], nn.Module]
FRAMES = (2, 2, 1)
"""By how much the levels of the encoder divide the frames, the highest resolution first; each of them halves the sides."""


class Level(nn.Module):
    """Residual blocks of one resolution, then perhaps another resolution.

    Args:
        channels, blocks: of the residual blocks.
        norm: makes their norms.
        down, up: what follows the blocks.
    """

    def __init__(
        self,
        channels: int,
        blocks: int,
        norm: Norm,
        *,
        down: Downsample | None = None,
        up: Upsample | None = None,
    ) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(ResidualBlock(channels, norm) for _ in range(blocks))
        if down is not None:
            self.downsamplers = nn.ModuleList([down])
        if up is not None:
            self.upsamplers = nn.ModuleList([up])

    def forward(self, x: Tensor, carry: Carry) -> Tensor:
        for part in (part for parts in self.children() if isinstance(parts, nn.ModuleList) for part in parts):
            x = part(x, carry)
        return x


class Encoder(nn.Module):
    """Frames (B, 3, T, H, W) to (B, out_channels, t, H/8, W/8)."""

    def __init__(self, widths: Sequence[int], blocks: int, out_channels: int) -> None:
        super().__init__()
        last = len(FRAMES)
        downs = [Downsample(widths[i], widths[i + 1], FRAMES[i]) for i in range(last)]
        self.conv_in = CausalConv(3, widths[0])
        self.down_blocks = nn.ModuleList(
            Level(width, blocks, RMSNorm, down=down)
            for width, down in zip(widths[: last + 1], [*downs, None], strict=True)
        )
        self.mid_block = Level(widths[last], 2, RMSNorm)
        self.norm_out = RMSNorm(widths[last])
        self.conv_out = CausalConv(widths[last], out_channels)

    def forward(self, frames: Tensor, carry: Carry) -> Tensor:
        h = self.conv_in(frames, carry)
        for level in (*self.down_blocks, self.mid_block):
            h = level(h, carry)
        out: Tensor = self.conv_out(F.silu(self.norm_out(h, carry)), carry)
        return out


class Decoder(nn.Module):
    """Latents (B, C, t, h, w) to frames (B, 3, T, 8 h, 8 w); one more block per level than the encoder."""

    def __init__(self, widths: Sequence[int], blocks: int, in_channels: int) -> None:
        super().__init__()
        norm = partial(LatentNorm, latent=in_channels)
        last = len(FRAMES)
        ups = [Upsample(widths[i + 1], widths[i], FRAMES[i]) for i in reversed(range(last))]
        self.conv_in = CausalConv(in_channels, widths[last])
        self.mid_block = Level(widths[last], 2, norm)
        self.up_blocks = nn.ModuleList(
            Level(width, blocks + 1, norm, up=up)
            for width, up in zip([widths[last], *reversed(widths[1 : last + 1])], [None, *ups], strict=True)
        )
        self.norm_out = norm(widths[0])
        self.conv_out = CausalConv(widths[0], 3)

    def forward(self, latent: Tensor, carry: Carry) -> Tensor:
        carry.latent = latent
        h = self.conv_in(latent, carry)
        for level in (self.mid_block, *self.up_blocks):
            h = level(h, carry)
        return self._out(h, latent, carry)

    def _out(self, h: Tensor, latent: Tensor, carry: Carry) -> Tensor:
        """The frames, one by one: nowhere else are the tensors so large."""
        frames, more, made = h.split(1, dim=2), carry.more, []
        for number, (frame, shown) in enumerate(zip(frames, latent_frames(len(frames), latent.shape[2]), strict=True)):
            carry.latent, carry.more = latent[:, :, shown : shown + 1], more or number < len(frames) - 1
            made.append(self.conv_out(F.silu(self.norm_out(frame, carry)), carry))
        return torch.cat(made, dim=2)
