"""How the transformer reads a prompt: summed up into its first token, and looked at by every token in every layer.

Prompts of a batch differ in length, so their features are packed; only keys and values are padded, and what is padding
is masked. Each row sees its own prompt alone.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalekv_adapters.infinity.config import InfinityConfig
from scalekv_adapters.infinity.precision import wide
from scalekv_adapters.infinity.prompts import PackedText

RMS_EPS = 1e-6


class TextNorm(nn.Module):
    """Root-mean-square norm with a weight, in float32, over the channels of text features."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        x = wide(x)
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + RMS_EPS) * wide(self.weight)


class TextKeysValues(nn.Module):
    """Keys and values of a text; keys have no bias."""

    zero_k_bias: Tensor

    def __init__(self, channels: int, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.mat_kv = nn.Linear(channels, 2 * width, bias=False)
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.register_buffer("zero_k_bias", torch.zeros(width))
        self.proj = nn.Linear(width, width)

    def keys_values(self, text: PackedText) -> tuple[Tensor, Tensor]:
        """Keys and values (B, H, longest, c), padded."""
        weight = self.mat_kv.weight
        packed = F.linear(text.features.to(weight.dtype), weight, torch.cat((self.zero_k_bias, self.v_bias)))
        padded = text.padded(packed.view(len(packed), 2, self.heads, -1))  # (B, longest, 2, H, c)
        keys, values = padded.permute(2, 0, 3, 1, 4)
        return keys, values

    def attend(self, q: Tensor, text: PackedText) -> Tensor:
        """(B, n, C) what queries (B, H, n, c) find in their own prompts, projected."""
        keys, values = self.keys_values(text)
        out = F.scaled_dot_product_attention(q.to(values.dtype), keys, values, attn_mask=text.seen)
        projected: Tensor = self.proj(out.transpose(1, 2).flatten(2))
        return projected


class PooledQuery(TextKeysValues):
    """One learned query per head, asked of every prompt."""

    def __init__(self, config: InfinityConfig) -> None:
        super().__init__(config.text_channels, config.width, config.pool_heads)
        self.mat_q = nn.Parameter(torch.zeros(1, config.pool_heads, config.width // config.pool_heads))

    def forward(self, text: PackedText) -> Tensor:
        query = self.mat_q[:, :, None].expand(len(text), -1, -1, -1)  # (B, H, 1, c)
        return self.attend(query, text)


class TextPool(nn.Module):
    """Sums every prompt up into one vector (B, C)."""

    def __init__(self, config: InfinityConfig) -> None:
        super().__init__()
        self.ca = PooledQuery(config)

    def forward(self, text: PackedText) -> Tensor:
        pooled: Tensor = self.ca(text)
        return pooled.squeeze(1)


class CrossAttention(TextKeysValues):
    """Every token looks at its own prompt."""

    def __init__(self, config: InfinityConfig) -> None:
        super().__init__(config.width, config.width, config.heads)
        self.mat_q = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor, text: PackedText) -> Tensor:
        q = self.mat_q(x.to(self.mat_q.weight.dtype)).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, H, n, c)
        return self.attend(q, text)
