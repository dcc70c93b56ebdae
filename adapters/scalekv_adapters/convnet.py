"""The convolutional encoder and decoder of both families' image tokenisers.

Nothing here knows about scales, tokens or bits; generation needs the decoder only. The families differ in what they call
their convolutions and norms, whether the lowest resolution has attention, and whether pixels are folded into channels
first: that is their `Parts`. Names of levels follow the published checkpoints, where `down.0` and `up.0` are the levels of
the highest resolution.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch.nn.functional as F
from attrs import frozen
from torch import Tensor, nn

GROUPS = 32


@frozen
class Parts:
    """What an encoder and decoder are made of.

    Attributes:
        conv: makes a convolution from channels in, channels out, kernel (1 or 3) and stride; it keeps the map's sides
            unless it strides.
        norm: makes a group norm of so many channels.
        attention: makes the attention of the lowest resolution; None has none.
        fold: pixels along each side that are folded into channels.
    """

    conv: Callable[[int, int, int, int], nn.Module]
    norm: Callable[[int], nn.Module]
    attention: Callable[[int], nn.Module] | None = None
    fold: int = 1


class ResidualBlock(nn.Module):
    """Norm, SiLU, convolution, twice, plus the input (through a 1x1 convolution if the channels change)."""

    def __init__(self, c_in: int, c_out: int, parts: Parts) -> None:
        super().__init__()
        self.norm1 = parts.norm(c_in)
        self.conv1 = parts.conv(c_in, c_out, 3, 1)
        self.norm2 = parts.norm(c_out)
        self.conv2 = parts.conv(c_out, c_out, 3, 1)
        self.nin_shortcut = nn.Identity() if c_in == c_out else parts.conv(c_in, c_out, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        out: Tensor = self.nin_shortcut(x) + h
        return out


class Downsample(nn.Module):
    """Half the sides. The padding is at the bottom and the right only, as the checkpoints were trained."""

    def __init__(self, channels: int, parts: Parts) -> None:
        super().__init__()
        self.conv = parts.conv(channels, channels, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))
        return out


class Upsample(nn.Module):
    """Twice the sides, by nearest neighbour and a convolution."""

    def __init__(self, channels: int, parts: Parts) -> None:
        super().__init__()
        self.conv = parts.conv(channels, channels, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return out


class Level(nn.Module):
    """Residual blocks at one resolution; with attention behind each block at the lowest resolution, if there is any."""

    def __init__(self, c_in: int, c_out: int, blocks: int, parts: Parts, *, lowest: bool) -> None:
        super().__init__()
        widths = [c_in] + [c_out] * blocks
        self.block = nn.ModuleList(ResidualBlock(a, b, parts) for a, b in pairwise(widths))
        self.attn = nn.ModuleList(
            parts.attention(c_out) for _ in range(blocks) if lowest and parts.attention is not None
        )

    def forward(self, x: Tensor) -> Tensor:
        for i, block in enumerate(self.block):
            x = block(x)
            if self.attn:
                x = self.attn[i](x)
        return x


class DownLevel(Level):
    """A level of the encoder; all but the last halve the sides."""

    def __init__(self, c_in: int, c_out: int, blocks: int, parts: Parts, *, last: bool) -> None:
        super().__init__(c_in, c_out, blocks, parts, lowest=last)
        self.downsample = nn.Identity() if last else Downsample(c_out, parts)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.downsample(super().forward(x))
        return out


class UpLevel(Level):
    """A level of the decoder; all but the first (the highest resolution) double the sides."""

    def __init__(self, c_in: int, c_out: int, blocks: int, parts: Parts, *, first: bool, last: bool) -> None:
        super().__init__(c_in, c_out, blocks, parts, lowest=last)
        self.upsample = nn.Identity() if first else Upsample(c_out, parts)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.upsample(super().forward(x))
        return out


class Middle(nn.Module):
    """Two residual blocks at the lowest resolution, with attention between them if there is any."""

    def __init__(self, channels: int, parts: Parts) -> None:
        super().__init__()
        self.block_1 = ResidualBlock(channels, channels, parts)
        self.attn_1 = nn.Identity() if parts.attention is None else parts.attention(channels)
        self.block_2 = ResidualBlock(channels, channels, parts)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.block_2(self.attn_1(self.block_1(x)))
        return out


class Encoder(nn.Module):
    """Images (B, 3, H, W) to features (B, out_channels, H/s, W/s) with s = fold * 2^(levels - 1)."""

    def __init__(self, base: int, multipliers: Sequence[int], blocks: int, out_channels: int, parts: Parts) -> None:
        super().__init__()
        widths = [base] + [base * m for m in multipliers]
        last = len(multipliers) - 1
        self.fold = parts.fold
        self.conv_in = parts.conv(3 * parts.fold**2, base, 3, 1)
        self.down = nn.ModuleList(
            DownLevel(a, b, blocks, parts, last=i == last) for i, (a, b) in enumerate(pairwise(widths))
        )
        self.mid = Middle(widths[-1], parts)
        self.norm_out = parts.norm(widths[-1])
        self.conv_out = parts.conv(widths[-1], out_channels, 3, 1)

    def forward(self, images: Tensor) -> Tensor:
        h = self.conv_in(F.pixel_unshuffle(images, self.fold) if self.fold > 1 else images)
        for level in self.down:
            h = level(h)
        out: Tensor = self.conv_out(F.silu(self.norm_out(self.mid(h))))
        return out


class Decoder(nn.Module):
    """Features (B, in_channels, h, w) to images (B, 3, s*h, s*w); one more block per level than the encoder."""

    def __init__(self, base: int, multipliers: Sequence[int], blocks: int, in_channels: int, parts: Parts) -> None:
        super().__init__()
        widths = [base * m for m in multipliers]
        widths.append(widths[-1])  # level i reads width i + 1 and writes width i
        last = len(multipliers) - 1
        self.fold = parts.fold
        self.conv_in = parts.conv(in_channels, widths[-1], 3, 1)
        self.mid = Middle(widths[-1], parts)
        self.up = nn.ModuleList(
            UpLevel(b, a, blocks + 1, parts, first=i == 0, last=i == last) for i, (a, b) in enumerate(pairwise(widths))
        )
        self.norm_out = parts.norm(widths[0])
        self.conv_out = parts.conv(widths[0], 3 * parts.fold**2, 3, 1)

    def forward(self, features: Tensor) -> Tensor:
        h = self.mid(self.conv_in(features))
        for level in reversed(self.up):
            h = level(h)
        out: Tensor = self.conv_out(F.silu(self.norm_out(h)))
        return F.pixel_shuffle(out, self.fold) if self.fold > 1 else out
