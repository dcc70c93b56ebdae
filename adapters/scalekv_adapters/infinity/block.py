"""The blocks of the Infinity transformer: self-attention that talks to a cache, attention to the prompt, feed-forward network."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from attrs import frozen
from torch import Tensor, nn

from scalekv_adapters.infinity.config import InfinityConfig
from scalekv_adapters.infinity.precision import AffineNorm, FromCondition, modulated, wide
from scalekv_adapters.infinity.prompts import PackedText
from scalekv_adapters.infinity.rotation import Rotation
from scalekv_adapters.infinity.text_attention import CrossAttention
from scalekv_core.contracts.adapter import AttentionCache

MAX_LOG_HEAD_SCALE = math.log(100)


@frozen(eq=False, kw_only=True)
class Condition:
    """What every block is told of the prompts.

    Attributes:
        start: (B, C) the prompts summed up; the first token, and what norms are scaled and shifted by.
        six: (B, 1, 6, C) gamma1, gamma2, scale1, scale2, shift1, shift2, to which each block adds its own.
        text: what cross attention reads, (sum of lens, C).
    """

    start: Tensor
    six: Tensor
    text: PackedText


def length(x: Tensor) -> Tensor:
    """(..., 1) the length of x (..., D), at least 1e-12."""
    return torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min(1e-12)


class SelfAttention(nn.Module):
    """Self-attention of one layer; the cache decides who attends to what."""

    zero_k_bias: Tensor

    def __init__(self, config: InfinityConfig, layer: int) -> None:
        super().__init__()
        C, H = config.width, config.heads
        self.layer, self.heads = layer, H
        self.mat_qkv = nn.Linear(C, 3 * C, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(C))
        self.v_bias = nn.Parameter(torch.zeros(C))
        self.register_buffer("zero_k_bias", torch.zeros(C))
        self.proj = nn.Linear(C, C)
        self.scale_mul_1H11 = nn.Parameter(torch.full((1, H, 1, 1), math.log(4.0)))  # in the logarithm

    def qkv(self, x: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (B, H, n, c) of x (B, n, C), with bias, l2 norm, head scale and rotation."""
        weight = self.mat_qkv.weight
        bias = torch.cat((self.q_bias, self.zero_k_bias, self.v_bias))
        rows = F.linear(x.to(weight.dtype), weight, bias).unflatten(-1, (3, self.heads, -1))  # (B, n, 3, H, c)
        q, k, v = rows.permute(2, 0, 3, 1, 4)
        scale = wide(self.scale_mul_1H11).clamp_max(MAX_LOG_HEAD_SCALE).exp()
        q, k = wide(q), wide(k)
        q = rotation.turn(q * (scale / length(q)))
        k = rotation.turn(k / length(k))
        return q.to(v.dtype), k.to(v.dtype), v

    def forward(self, x: Tensor, rotation: Rotation, cache: AttentionCache) -> Tensor:
        q, k, v = self.qkv(x, rotation)
        out = cache.attend(self.layer, q, k, v, softmax_scale=1.0)  # (B, H, n, c)
        projected: Tensor = self.proj(out.transpose(1, 2).flatten(2))
        return projected


class FeedForward(nn.Module):
    """Two linear layers with a GELU (tanh approximation) between them."""

    def __init__(self, config: InfinityConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.width, config.hidden)
        self.fc2 = nn.Linear(config.hidden, config.width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(x.to(self.fc1.weight.dtype)), approximate="tanh"))
        return out


class Block(nn.Module):
    """Self-attention, cross attention to the prompt and a feed-forward network; the condition gates the first and last."""

    def __init__(self, config: InfinityConfig, layer: int) -> None:
        super().__init__()
        self.sa = SelfAttention(config, layer)
        self.ca = CrossAttention(config)
        self.ffn = FeedForward(config)
        self.ca_norm = AffineNorm(config.width)
        self.ada_gss = nn.Parameter(torch.randn(1, 1, 6, config.width) / math.sqrt(config.width))

    def forward(self, x: Tensor, condition: Condition, rotation: Rotation, cache: AttentionCache) -> Tensor:
        gamma1, gamma2, scale1, scale2, shift1, shift2 = (condition.six + wide(self.ada_gss)).unbind(2)
        x = torch.addcmul(x, gamma1, self.sa(modulated(x, scale1, shift1), rotation, cache))
        x = x + self.ca(self.ca_norm(x), condition.text)
        return torch.addcmul(x, gamma2, self.ffn(modulated(x, scale2, shift2)))


class BlockChunk(nn.Module):
    """Some consecutive blocks, under the name that the published weights give them."""

    def __init__(self, blocks: list[Block]) -> None:
        super().__init__()
        self.module = nn.ModuleList(blocks)


class HeadNorm(nn.Module):
    """The layer norm before the head, scaled and shifted by the condition."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ada_lin = FromCondition(width, 2)

    def forward(self, x: Tensor, start: Tensor) -> Tensor:
        scale, shift = self.ada_lin(start).unbind(2)
        return modulated(x, scale, shift)
