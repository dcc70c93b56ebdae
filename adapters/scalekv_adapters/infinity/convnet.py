"""The parts of Infinity's BSQ-VAE: every convolution and norm sits one name deeper (``conv_in.conv.weight``), as the
published checkpoints have it; there is no attention, and pixels can be folded into channels first."""

from __future__ import annotations

from torch import Tensor, nn

from scalekv_adapters.convnet import GROUPS, Parts


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
        self.norm = nn.GroupNorm(num_groups=GROUPS, num_channels=channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(x)
        return out


def parts(fold: int) -> Parts:
    """With so many pixels along each side folded into channels."""
    return Parts(Conv, Norm, fold=fold)
