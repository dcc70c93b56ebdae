"""What is computed in which dtype.

Weights may be in half precision, all of them or only those of the large matrices, and autocast may be on. Whatever they
are, the residual stream, norms, head scales, rotations and the condition are float32, as in the published runs; a linear
layer computes in the dtype of its weights.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPS = 1e-6


def wide(x: Tensor) -> Tensor:
    """x in float32, or as it is if it is float64."""
    return x if x.dtype == torch.float64 else x.float()


def layer_norm(x: Tensor) -> Tensor:
    """Layer norm without weights, eps 1e-6, over the last axis; float32."""
    return F.layer_norm(wide(x), x.shape[-1:], eps=EPS)


def modulated(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """layer_norm(x) * (1 + scale) + shift in one pass less; float32."""
    return torch.addcmul(shift, layer_norm(x), 1 + scale)


def apart_from_autocast(layer: nn.Linear, x: Tensor) -> Tensor:
    """The layer of x, in the dtype of its weights even under autocast; float32."""
    with torch.autocast("cpu" if x.is_meta else x.device.type, enabled=False):  # the meta device knows of none
        return wide(layer(x.to(layer.weight.dtype)))


class AffineNorm(nn.LayerNorm):
    """Layer norm with weight and bias, eps 1e-6, in float32 whatever the dtype of its weights."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(wide(x), self.normalized_shape, wide(self.weight), wide(self.bias), self.eps)


class FromCondition(nn.Sequential):
    """SiLU and a linear layer from a condition (B, C) to so many vectors (B, 1, parts, C); not under autocast."""

    def __init__(self, width: int, parts: int) -> None:
        super().__init__(nn.SiLU(), nn.Linear(width, parts * width))
        self.parts = parts

    def forward(self, condition: Tensor) -> Tensor:
        linear = self[1]
        assert isinstance(linear, nn.Linear)
        return apart_from_autocast(linear, F.silu(condition)).view(len(condition), 1, self.parts, -1)
