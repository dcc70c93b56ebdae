"""The convolutional encoder and decoder of VAR's VQVAE.

They are apart from the quantiser because nothing here knows about scales; generation needs the decoder only.
Parameter names follow the published checkpoints, where `down.0` and `up.0` are the levels of the highest resolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm as everywhere in this network: 32 groups, eps 1e-6."""
    return nn.GroupNorm(num_groups=32, num_channels=channels, eps=1e-6)


def conv3x3(c_in: int, c_out: int) -> nn.Conv2d:
    """A 3x3 convolution that keeps the map's sides."""
    return nn.Conv2d(c_in, c_out, kernel_size=3, padding=1)


class ResidualBlock(nn.Module):
    """Norm, SiLU, convolution, twice, plus the input (through a 1x1 convolution if the channels change)."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.norm1 = group_norm(c_in)
        self.conv1 = conv3x3(c_in, c_out)
        self.norm2 = group_norm(c_out)
        self.conv2 = conv3x3(c_out, c_out)
        self.nin_shortcut = nn.Identity() if c_in == c_out else nn.Conv2d(c_in, c_out, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        out: Tensor = self.nin_shortcut(x) + h
        return out


class SpatialAttention(nn.Module):
    """Single-head attention over the positions of a map, plus the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, kernel_size=1)
        self.proj_out = nn.Conv2d(channels, channels, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(self.norm(x)).flatten(2)  # (B, 3C, hw)
        q, k, v = (part.mT.unsqueeze(1) for part in qkv.chunk(3, dim=1))  # (B, 1, hw, C) each
        h = F.scaled_dot_product_attention(q, k, v)  # its default scale is C^-1/2
        out: Tensor = x + self.proj_out(h.squeeze(1).mT.reshape(x.shape))
        return out


class Downsample(nn.Module):
    """Half the sides. The padding is at the bottom and the right only, as the checkpoints were trained."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, kernel_size=3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))
        return out


class Upsample(nn.Module):
    """Twice the sides, by nearest neighbour and a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = conv3x3(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return out


class Level(nn.Module):
    """Residual blocks at one resolution; with attention behind each block at the lowest resolution."""

    def __init__(self, c_in: int, c_out: int, blocks: int, attention: bool) -> None:
        super().__init__()
        widths = [c_in] + [c_out] * blocks
        self.block = nn.ModuleList(ResidualBlock(a, b) for a, b in pairwise(widths))
        self.attn = nn.ModuleList(SpatialAttention(c_out) for _ in range(blocks if attention else 0))

    def forward(self, x: Tensor) -> Tensor:
        for i, block in enumerate(self.block):
            x = block(x)
            if self.attn:
                x = self.attn[i](x)
        return x


class DownLevel(Level):
    """A level of the encoder; all but the last halve the sides."""

    def __init__(self, c_in: int, c_out: int, blocks: int, last: bool) -> None:
        super().__init__(c_in, c_out, blocks, attention=last)
        self.downsample = nn.Identity() if last else Downsample(c_out)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.downsample(super().forward(x))
        return out


class UpLevel(Level):
    """A level of the decoder; all but the first (the highest resolution) double the sides."""

    def __init__(self, c_in: int, c_out: int, blocks: int, first: bool, last: bool) -> None:
        super().__init__(c_in, c_out, blocks, attention=last)
        self.upsample = nn.Identity() if first else Upsample(c_out)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.upsample(super().forward(x))
        return out


class Middle(nn.Module):
    """Block, attention, block at the lowest resolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block_1 = ResidualBlock(channels, channels)
        self.attn_1 = SpatialAttention(channels)
        self.block_2 = ResidualBlock(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.block_2(self.attn_1(self.block_1(x)))
        return out


class Encoder(nn.Module):
    """Images (B, 3, H, W) to features (B, out_channels, H/f, W/f) with f = 2^(levels - 1)."""

    def __init__(self, base: int, multipliers: Sequence[int], blocks: int, out_channels: int) -> None:
        super().__init__()
        widths = [base] + [base * m for m in multipliers]
        last = len(multipliers) - 1
        self.conv_in = conv3x3(3, base)
        self.down = nn.ModuleList(DownLevel(a, b, blocks, i == last) for i, (a, b) in enumerate(pairwise(widths)))
        self.mid = Middle(widths[-1])
        self.norm_out = group_norm(widths[-1])
        self.conv_out = conv3x3(widths[-1], out_channels)

    def forward(self, images: Tensor) -> Tensor:
        h = self.conv_in(images)
        for level in self.down:
            h = level(h)
        out: Tensor = self.conv_out(F.silu(self.norm_out(self.mid(h))))
        return out


class Decoder(nn.Module):
    """Features (B, in_channels, h, w) to images (B, 3, f*h, f*w); one more block per level than the encoder."""

    def __init__(self, base: int, multipliers: Sequence[int], blocks: int, in_channels: int) -> None:
        super().__init__()
        widths = [base * m for m in multipliers]
        widths.append(widths[-1])  # level i reads width i + 1 and writes width i
        last = len(multipliers) - 1
        self.conv_in = conv3x3(in_channels, widths[-1])
        self.mid = Middle(widths[-1])
        self.up = nn.ModuleList(
            UpLevel(b, a, blocks + 1, i == 0, i == last) for i, (a, b) in enumerate(pairwise(widths))
        )
        self.norm_out = group_norm(widths[0])
        self.conv_out = conv3x3(widths[0], 3)

    def forward(self, features: Tensor) -> Tensor:
        h = self.mid(self.conv_in(features))
        for level in reversed(self.up):
            h = level(h)
        out: Tensor = self.conv_out(F.silu(self.norm_out(h)))
        return out
