"""The parts of VAR's VQVAE: plain convolutions and norms, with attention at the lowest resolution."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from scalekv_adapters.convnet import GROUPS, Parts


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm as everywhere in this network: 32 groups, eps 1e-6."""
    return nn.GroupNorm(num_groups=GROUPS, num_channels=channels, eps=1e-6)


def conv(c_in: int, c_out: int, kernel: int = 3, stride: int = 1) -> nn.Conv2d:
    """A convolution that keeps the map's sides unless it strides."""
    return nn.Conv2d(c_in, c_out, kernel, stride, padding=kernel // 2 if stride == 1 else 0)


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


PARTS = Parts(conv, group_norm, SpatialAttention)
