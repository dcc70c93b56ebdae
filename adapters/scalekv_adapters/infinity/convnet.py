"""The convolutional encoder and decoder of Infinity's BSQ-VAE.

They differ from those of VAR's VQVAE in three ways: there is no attention, every convolution and norm sits one name
deeper (``conv_in.conv.weight``), as the published checkpoints have it, and pixels can be folded into channels first.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn


class Conv(nn.Module):
    """A convolution under the published name ``conv``; it keeps the map's sides unless it strides."""

    def __init__(self, c_in: int, c_out: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, padding=kernel // 2 if stride == 1 else 0)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return out


class Norm(nn.Module):
    """GroupNorm of 32 groups, eps 1e-6, under the published name ``norm``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(num_groups=32, num_channels=channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(x)
        return out


class ResidualBlock(nn.Module):
    """Norm, SiLU, convolution, twice, plus the input (through a 1x1 convolution if the channels change)."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.norm1 = Norm(c_in)
        self.conv1 = Conv(c_in, c_out)
        self.norm2 = Norm(c_out)
        self.conv2 = Conv(c_out, c_out)
        self.nin_shortcut = nn.Identity() if c_in == c_out else Conv(c_in, c_out, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        out: Tensor = self.nin_shortcut(x) + h
        return out


class Downsample(nn.Module):
    """Half the sides. The padding is at the bottom and the right only, as the checkpoints were trained."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv(channels, channels, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))
        return out


class Upsample(nn.Module):
    """Twice the sides, by nearest neighbour and a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return out


class Level(nn.Module):
    """Residual blocks at one resolution."""

    def __init__(self, c_in: int, c_out: int, blocks: int) -> None:
        super().__init__()
        widths = [c_in] + [c_out] * blocks
        self.block = nn.ModuleList(ResidualBlock(a, b) for a, b in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.block:
            x = block(x)
        return x


class DownLevel(Level):
    """A level of the encoder; all but the last halve the sides."""

    def __init__(self, c_in: int, c_out: int, blocks: int, last: bool) -> None:
        super().__init__(c_in, c_out, blocks)
        self.downsample = nn.Identity() if last else Downsample(c_out)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.downsample(super().forward(x))
        return out


class UpLevel(Level):
    """A level of the decoder; all but the first (the highest resolution) double the sides."""

    def __init__(self, c_in: int, c_out: int, blocks: int, first: bool) -> None:
        super().__init__(c_in, c_out, blocks)
        self.upsample = nn.Identity() if first else Upsample(c_out)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.upsample(super().forward(x))
        return out


class Middle(nn.Module):
    """Two residual blocks at the lowest resolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block_1 = ResidualBlock(channels, channels)
        self.block_2 = ResidualBlock(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.block_2(self.block_1(x))
        return out


class Encoder(nn.Module):
    """Images (B, 3, H, W) to features (B, out_channels, H/s, W/s) with s = fold * 2^(levels - 1)."""

    def __init__(self, base: int, multipliers: Sequence[int], blocks: int, out_channels: int, fold: int) -> None:
        super().__init__()
        widths = [base] + [base * m for m in multipliers]
        last = len(multipliers) - 1
        self.fold = fold
        self.conv_in = Conv(3 * fold**2, base)
        self.down = nn.ModuleList(DownLevel(a, b, blocks, i == last) for i, (a, b) in enumerate(pairwise(widths)))
        self.mid = Middle(widths[-1])
        self.norm_out = Norm(widths[-1])
        self.conv_out = Conv(widths[-1], out_channels)

    def forward(self, images: Tensor) -> Tensor:
        h = self.conv_in(F.pixel_unshuffle(images, self.fold))
        for level in self.down:
            h = level(h)
        out: Tensor = self.conv_out(F.silu(self.norm_out(self.mid(h))))
        return out


class Decoder(nn.Module):
    """Features (B, in_channels, h, w) to images (B, 3, s*h, s*w); one more block per level than the encoder."""

    def __init__(self, base: int, multipliers: Sequence[int], blocks: int, in_channels: int, fold: int) -> None:
        super().__init__()
        widths = [base * m for m in multipliers]
        widths.append(widths[-1])  # level i reads width i + 1 and writes width i
        self.fold = fold
        self.conv_in = Conv(in_channels, widths[-1])
        self.mid = Middle(widths[-1])
        self.up = nn.ModuleList(UpLevel(b, a, blocks + 1, i == 0) for i, (a, b) in enumerate(pairwise(widths)))
        self.norm_out = Norm(widths[0])
        self.conv_out = Conv(widths[0], 3 * fold**2)

    def forward(self, features: Tensor) -> Tensor:
        h = self.mid(self.conv_in(features))
        for level in reversed(self.up):
            h = level(h)
        out: Tensor = F.pixel_shuffle(self.conv_out(F.silu(self.norm_out(h))), self.fold)
        return out
