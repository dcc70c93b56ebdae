"""The HART transformer: text and one map after another in, hidden states and the logits of the next map out.

Attention keeps nothing: each block hands its queries, keys and values to a cache, which answers with the attention's output.
Source: Tang et al., HART: Efficient Visual Generation with Hybrid Autoregressive Transformer, 2024 (arXiv 2410.10812).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from attrs import frozen
from torch import Tensor, nn

from scalekv_adapters.hart.config import HARTConfig
from scalekv_adapters.hart.diffusion import DiffusionHead, Sinusoid
from scalekv_adapters.hart.rotation import Rotation
from scalekv_adapters.llama import GatedFeedForward, RMSNorm
from scalekv_core.contracts.adapter import AttentionCache

MAX_LOG_HEAD_SCALE = math.log(100)


@frozen(eq=False)
class Condition:
    """What the text says to every token.

    Attributes:
        maximum: (B, C) over all text tokens, padding included: for the head.
        mean: (B, C) over the real ones.
    """

    maximum: Tensor
    mean: Tensor

    @classmethod
    def of(cls, context: Tensor, real: Tensor) -> Condition:
        """Of embedded text (B, T, C) with these real tokens (B, T)."""
        weights = real.to(context.dtype)
        mean = (context * weights[..., None]).sum(1) / weights.sum(1, keepdim=True)
        return cls(context.amax(1), mean)


class SelfAttention(nn.Module):
    """Self-attention of one layer; who attends to what is the cache's business."""

    zero_k_bias: Tensor

    def __init__(self, config: HARTConfig, layer: int) -> None:
        super().__init__()
        width, heads = config.width, config.heads
        self.layer, self.heads, self.l2_norm = layer, heads, config.attn_l2_norm
        self.softmax_scale = 1.0 if self.l2_norm else 0.25 / math.sqrt(width // heads)
        self.qkv_proj = nn.Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.register_buffer("zero_k_bias", torch.zeros(width))
        self.proj = nn.Linear(width, width)
        if self.l2_norm:
            self.scale_mul_1H11 = nn.Parameter(torch.full((1, heads, 1, 1), math.log(4.0)))  # in the logarithm

    def qkv(self, x: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (B, H, n, D) of x (B, n, C) as attention reads them."""
        bias = torch.cat((self.q_bias, self.zero_k_bias, self.v_bias))
        rows = F.linear(x, self.qkv_proj.weight, bias).view(*x.shape[:2], 3, self.heads, -1)
        q, k, v = rows.permute(2, 0, 3, 1, 4)
        if self.l2_norm:
            scale = self.scale_mul_1H11.float().clamp_max(MAX_LOG_HEAD_SCALE).exp()
            q = (F.normalize(q.float(), dim=-1) * scale).to(v.dtype)
            k = F.normalize(k.float(), dim=-1).to(v.dtype)
        return rotation(q), rotation(k), v

    def forward(self, x: Tensor, rotation: Rotation, cache: AttentionCache) -> Tensor:
        q, k, v = self.qkv(x, rotation)
        out = cache.attend(self.layer, q, k, v, softmax_scale=self.softmax_scale)  # (B, H, n, D)
        projected: Tensor = self.proj(out.transpose(1, 2).flatten(2))
        return projected


class Block(nn.Module):
    """Attention and feed-forward network behind one norm that both share, modulated by the text where the model does that."""

    def __init__(self, config: HARTConfig, layer: int) -> None:
        super().__init__()
        self.pooling = config.pooling
        self.attn = SelfAttention(config, layer)
        self.ffn = GatedFeedForward(config.width, config.hidden)
        self.ln_wo_grad = RMSNorm(config.width)  # its official name; it has a weight all the same
        if config.adaln == "table":
            self.scale_shift_table = nn.Parameter(torch.randn(6, config.width) / math.sqrt(config.width))
        elif config.adaln == "linear":
            self.ada_lin = nn.Sequential(nn.SiLU(), nn.Linear(config.width, 6 * config.width))
        self.adaln = config.adaln

    def modulation(self, condition: Condition) -> tuple[Tensor, ...]:
        """gamma1, gamma2, scale1, scale2, shift1, shift2, each (B, 1, C)."""
        if self.adaln == "table":
            six = self.scale_shift_table + condition.mean[:, None]
        else:
            pooled = condition.maximum if self.pooling == "max" else condition.mean
            six = self.ada_lin(pooled).unflatten(1, (6, -1))
        return six.unsqueeze(1).unbind(2)

    def forward(self, x: Tensor, condition: Condition, rotation: Rotation, cache: AttentionCache) -> Tensor:
        if self.adaln == "none":
            x = x + self.attn(self.ln_wo_grad(x), rotation, cache)
            out: Tensor = x + self.ffn(self.ln_wo_grad(x))
            return out
        gamma1, gamma2, scale1, scale2, shift1, shift2 = self.modulation(condition)
        x = x + gamma1 * self.attn(self.ln_wo_grad(x) * (1 + scale1) + shift1, rotation, cache)
        modulated: Tensor = x + gamma2 * self.ffn(self.ln_wo_grad(x) * (1 + scale2) + shift2)
        return modulated


class HeadNorm(nn.Module):
    """The norm before the head, scaled and shifted by the maximum over the text."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ln_wo_grad = RMSNorm(width)
        self.ada_lin = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x: Tensor, condition: Condition) -> Tensor:
        scale, shift = self.ada_lin(condition.maximum).unflatten(1, (1, 2, -1)).unbind(2)
        out: Tensor = self.ln_wo_grad(x) * (1 + scale) + shift
        return out


class Diffusion(nn.Module):
    """Holds the network of the residual diffusion under its official name."""

    def __init__(self, config: HARTConfig) -> None:
        super().__init__()
        self.net = DiffusionHead(config.code_width, config.width, config.diffusion_width, config.diffusion_depth)


class HARTTransformer(nn.Module):
    """A HART transformer of these sizes, with the official names of all weights."""

    def __init__(self, config: HARTConfig) -> None:
        super().__init__()
        self.config = config
        width, levels = config.width, len(config.patch_sides)
        self.word_embed = nn.Linear(config.code_width, width)
        self.context_embed = nn.Linear(config.context_width, width)
        if config.context_norm:
            self.context_norm = RMSNorm(config.context_width)
        self.lvl_embed = Sinusoid(width) if config.level == "sinusoid" else nn.Embedding(levels, width)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.depth))
        self.head_nm = HeadNorm(width)
        self.head = nn.Linear(width, config.codes)
        self.decoder_norm = RMSNorm(width)
        self.diffloss = Diffusion(config)

    def embed_text(self, features: Tensor) -> Tensor:
        """(B, T, C) of text features (B, T, context width)."""
        features = features.to(self.context_embed.weight.dtype)
        out: Tensor = self.context_embed(self.context_norm(features) if self.config.context_norm else features)
        return out

    def level(self, number: int) -> Tensor:
        """(C,) the embedding of a map's number; 0 is that of the text."""
        out: Tensor = self.lvl_embed(torch.tensor(number, device=self.head.weight.device))
        return out

    def run_blocks(self, x: Tensor, condition: Condition, rotation: Rotation, cache: AttentionCache) -> Tensor:
        """Hidden states (B, n, C) after all blocks."""
        for block in self.blocks:
            x = block(x, condition, rotation, cache)
        return x

    def logits_of(self, hidden: Tensor, condition: Condition) -> Tensor:
        """(B, n, codes) float32."""
        out: Tensor = self.head(self.head_nm(hidden, condition)).float()
        return out

    def decoder_condition(self, hidden: Tensor, codes: Tensor) -> Tensor:
        """(B, n, C) what the residual diffusion is told of each token: its hidden state and its code (B, n, code width)."""
        out: Tensor = self.decoder_norm(hidden + self.word_embed(codes.to(hidden.dtype)))
        return out
